// list.cpp: arguments of all elements together, then a call for each group.

#include "lower/list.h"

namespace torch_mesh {
namespace {

using Kind = Instruction::Kind;
using Argument = ListFacts::Argument;

// Whether what is summed first is summed for all who hold the sum.
bool is_reduced_first(const Argument& argument) {
  return argument.is_here && !argument.moves->steps.empty() &&
         argument.moves->steps[0].kind == Step::Kind::kAllReduce;
}

// Whether it is read and written where it lies, once it is reduced.
bool stands(const Argument& argument) {
  bool stands = argument.is_here;
  for (const Step& step : argument.moves->steps) {
    stands &= step.kind == Step::Kind::kAllReduce;
  }
  return stands;
}

// Sums that are read in parts: the gradient of a cut weight is reduce-scattered
// once.
bool is_formed(const Argument& argument) {
  return argument.is_here && argument.may_keep && argument.same_as < 0 &&
         !argument.is_written && argument.moves->from.has_partial() &&
         !is_reduced_first(argument);
}

class ListLowering {
 public:
  ListLowering(const ListFacts& call, int64_t bucket_bytes)
      : call_(call), bucket_bytes_(bucket_bytes) {}

  std::vector<Instruction> run() {
    each([](const Argument& a) { return is_reduced_first(a); }, Kind::kReduce);
    form_sums();
    bring();
    for (const std::vector<int>& group : call_.groups) {
      to_.push_back({Kind::kCallGroup, group});
    }
    each(
        [](const Argument& a) { return a.is_written && stands(a); },
        Kind::kWrote);
    each(
        [](const Argument& a) { return a.is_written && !stands(a); },
        Kind::kWriteBack);
    to_.push_back({Kind::kMake});
    return std::move(to_);
  }

 private:
  // An instruction on all arguments that are so, if there are any.
  template <typename IsWanted>
  void each(const IsWanted& is_wanted, Kind kind) {
    Instruction instruction{kind};
    for (size_t i = 0; i < call_.arguments.size(); ++i) {
      if (is_wanted(call_.arguments[i])) {
        instruction.slots.push_back(static_cast<int>(i));
      }
    }
    if (!instruction.slots.empty()) {
      to_.push_back(std::move(instruction));
    }
  }

  void form_sums() {
    std::vector<int> bucket;
    int64_t num_bytes = 0;
    const auto form = [&] {
      if (!bucket.empty()) {
        to_.push_back({Kind::kForm, bucket});
        to_.push_back({Kind::kKeep, bucket});
      }
      bucket.clear();
      num_bytes = 0;
    };
    for (size_t i = 0; i < call_.arguments.size(); ++i) {
      if (!is_formed(call_.arguments[i])) {
        continue;
      }
      const int64_t more = call_.arguments[i].moves->num_bytes();
      if (num_bytes + more > bucket_bytes_) {
        form();
      }
      num_bytes += more;
      bucket.push_back(static_cast<int>(i));
    }
    form();
  }

  static bool moves(const Argument& argument) {
    return argument.same_as < 0 && !argument.moves->steps.empty() &&
           !stands(argument) && !is_formed(argument);
  }

  void bring() {
    each([](const Argument& a) { return !a.is_here; }, Kind::kSpread);
    each(
        [](const Argument& a) {
          return !a.is_written && (stands(a) || is_formed(a));
        },
        Kind::kTake);
    each(
        [](const Argument& a) { return a.is_written && stands(a); },
        Kind::kOpen);
    each([](const Argument& a) { return moves(a); }, Kind::kMove);
    each(
        [](const Argument& a) { return moves(a) && a.lies_in_written; },
        Kind::kOwn);
    each(
        [&](const Argument& a) {
          const bool reads_in_order =
              call_.is_fused && a.is_of_list && !(a.is_written && stands(a));
          return a.same_as < 0 && (moves(a) || reads_in_order);
        },
        Kind::kDense);
    each([](const Argument& a) { return shares(a); }, Kind::kShare);
  }

  static bool shares(const Argument& argument) {
    return argument.same_as >= 0 && !stands(argument);
  }

  const ListFacts& call_;
  const int64_t bucket_bytes_;
  std::vector<Instruction> to_;
};

}  // namespace

std::vector<Instruction> lower_list(
    const ListFacts& call,
    int64_t bucket_bytes) {
  return ListLowering(call, bucket_bytes).run();
}

}  // namespace torch_mesh

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
         argument.moves->from.has_partial() && !is_reduced_first(argument);
}

// Whether the lanes have the tensor's own shards.
bool is_in_place(const Argument& argument) {
  return stands(argument) || is_formed(argument);
}

// The instructions that an argument is in, but for kForm and kKeep, in the
// order in which they run.
constexpr Kind kBring[] = {Kind::kReduce,
                           Kind::kSpread,
                           Kind::kTake,
                           Kind::kOpen,
                           Kind::kMove,
                           Kind::kOwn,
                           Kind::kDense,
                           Kind::kShare};
constexpr Kind kCommit[] = {Kind::kWrote, Kind::kWriteBack};

constexpr uint32_t bit(Kind kind) { return 1u << static_cast<int>(kind); }

uint32_t kinds_of(const Argument& argument, bool is_fused) {
  const bool in_place = is_in_place(argument);
  uint32_t kinds = is_reduced_first(argument) ? bit(Kind::kReduce) : 0;
  if (argument.is_written) {
    kinds |=
        in_place ? bit(Kind::kOpen) | bit(Kind::kWrote) : bit(Kind::kWriteBack);
  } else if (in_place) {
    kinds |= bit(Kind::kTake);
  }
  if (!argument.is_here) {
    kinds |= bit(Kind::kSpread);
  }
  if (argument.same_as >= 0 && !in_place) {
    return kinds | bit(Kind::kShare);
  }
  const bool moves = !argument.moves->steps.empty() && !in_place;
  if (moves) {
    kinds |=
        bit(Kind::kMove) | (argument.lies_in_written ? bit(Kind::kOwn) : 0);
  }
  const bool reads_in_order =
      is_fused && argument.is_of_list && !(argument.is_written && in_place);
  return kinds | (moves || reads_in_order ? bit(Kind::kDense) : 0);
}

// Of those that are formed; of one bucket the parts are gone before the next
// one begins.
void form_sums(
    const ListFacts& call,
    int64_t bucket_bytes,
    std::vector<Instruction>& to) {
  std::vector<int> bucket;
  int64_t num_bytes = 0;
  const auto form = [&] {
    if (!bucket.empty()) {
      to.push_back({Kind::kForm, bucket});
      to.push_back({Kind::kKeep, bucket});
    }
    bucket.clear();
    num_bytes = 0;
  };
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    if (!is_formed(call.arguments[i])) {
      continue;
    }
    const int64_t more = call.arguments[i].moves->num_bytes();
    if (num_bytes + more > bucket_bytes) {
      form();
    }
    num_bytes += more;
    bucket.push_back(static_cast<int>(i));
  }
  form();
}

}  // namespace

std::vector<Instruction> lower_list(
    const ListFacts& call,
    int64_t bucket_bytes) {
  std::vector<uint32_t> kinds;
  uint32_t all = 0;
  kinds.reserve(call.arguments.size());
  for (const Argument& argument : call.arguments) {
    kinds.push_back(kinds_of(argument, call.is_fused));
    all |= kinds.back();
  }
  std::vector<Instruction> to;
  const auto add_all = [&](Kind kind) {
    if (all & bit(kind)) {
      Instruction& instruction = to.emplace_back(Instruction{kind});
      instruction.slots.reserve(kinds.size());
      for (size_t i = 0; i < kinds.size(); ++i) {
        if (kinds[i] & bit(kind)) {
          instruction.slots.push_back(static_cast<int>(i));
        }
      }
    }
  };
  for (const Kind kind : kBring) {
    add_all(kind);
    if (kind == Kind::kReduce) {
      form_sums(call, bucket_bytes, to);
    }
  }
  for (const std::vector<int>& group : call.groups) {
    to.push_back({Kind::kCallGroup, group});
  }
  for (const Kind kind : kCommit) {
    add_all(kind);
  }
  to.push_back({Kind::kMake});
  return to;
}

}  // namespace torch_mesh

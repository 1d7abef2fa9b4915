// parts.cpp: stretches of a drawing, and the words between them.

#include "random/parts.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

#include "random/bernoulli.h"
#include "random/mersenne.h"
#include "shard/slice.h"

namespace torch_mesh {
namespace {

using Kind = Drawing::Kind;

// torch makes normal numbers of as many uniform ones at once; if the whole is
// no multiple, the last so many are drawn once more.
constexpr int64_t kNormals = 16;

at::CPUGeneratorImpl& generator_of(const Drawing& drawing) {
  return *at::check_generator<at::CPUGeneratorImpl>(
      drawing.generator.defined() ? drawing.generator
                                  : at::detail::getDefaultCPUGenerator());
}

int64_t words_of_number(const Drawing& drawing) {
  return drawing.kind == Kind::kBernoulli || drawing.dtype == at::kDouble ? 2
                                                                          : 1;
}

bool has_tail(const Drawing& drawing) {
  return drawing.kind == Kind::kNormal && drawing.numel % kNormals != 0;
}

// Words that are drawn before number `end`, or for all. Halves are drawn a
// block at a time, the last one instead of the rest.
int64_t words_before(const Drawing& drawing, int64_t end) {
  const bool is_half = c10::isReducedFloatingType(drawing.dtype);
  if (end == drawing.numel && has_tail(drawing)) {
    end += kNormals - (is_half ? end % kNormals : 0);
  }
  return words_of_number(drawing) * end;
}

void draw_by_torch(
    const Drawing& drawing,
    const at::Tensor& numbers,
    const at::Generator& generator) {
  switch (drawing.kind) {
    case Kind::kBernoulli:
      numbers.bernoulli_(drawing.first, generator).mul_(drawing.second);
      return;
    case Kind::kNormal:
      numbers.normal_(drawing.first, drawing.second, generator);
      return;
    case Kind::kUniform:
      numbers.uniform_(drawing.first, drawing.second, generator);
      return;
  }
}

// Numbers that have to be drawn together.
struct Stretch {
  int64_t begin;
  int64_t end;
  std::vector<Part> parts;
};

Stretch stretch_of(const Drawing& drawing, Part part) {
  int64_t begin = part.begin;
  int64_t end = begin + part.numbers.numel();
  if (drawing.kind == Kind::kNormal) {
    begin -= begin % kNormals;
    end = std::min(drawing.numel, end + kNormals - 1);
    end -= end == drawing.numel ? 0 : end % kNormals;
    // torch draws what is shorter in another way.
    const int64_t tail = drawing.numel - kNormals;
    if (has_tail(drawing) && end > tail) {
      begin = std::min(begin, tail - tail % kNormals);
      end = drawing.numel;
    }
  }
  return {begin, end, {std::move(part)}};
}

// In order; none overlap.
std::vector<Stretch> stretches_of(
    const Drawing& drawing,
    std::vector<Part> parts) {
  std::ranges::sort(parts, {}, &Part::begin);
  std::vector<Stretch> stretches;
  for (Part& part : parts) {
    if (part.numbers.numel() == 0) {
      continue;
    }
    Stretch stretch = stretch_of(drawing, std::move(part));
    if (!stretches.empty() && stretch.begin < stretches.back().end) {
      Stretch& last = stretches.back();
      last.begin = std::min(last.begin, stretch.begin);
      last.end = std::max(last.end, stretch.end);
      last.parts.push_back(std::move(stretch.parts[0]));
    } else {
      stretches.push_back(std::move(stretch));
    }
  }
  return stretches;
}

// torch's kernels draw from a generator: this one takes the words over, so that
// theirs is not let go in between.
class Stream {
 public:
  explicit Stream(Mersenne& words) : words_(words) {}

  // Fills a contiguous tensor with the next numbers.
  void draw(const Drawing& drawing, const at::Tensor& numbers) {
    if (drawing.kind == Kind::kBernoulli) {
      draw_bernoulli(
          words_,
          {numbers.mutable_data_ptr<float>(),
           static_cast<size_t>(numbers.numel())},
          drawing.first,
          static_cast<float>(drawing.second));
      return;
    }
    if (!generator_.defined()) {
      generator_ = at::detail::createCPUGenerator();
    }
    auto& own = *at::check_generator<at::CPUGeneratorImpl>(generator_);
    at::mt19937 engine;
    engine.set_data(words_.data());
    own.set_engine(engine);
    draw_by_torch(drawing, numbers, generator_);
    words_ = Mersenne(own.engine().data());
  }

 private:
  Mersenne& words_;
  at::Generator generator_;
};

void draw_stretch(
    const Drawing& drawing,
    const Stretch& stretch,
    Stream& stream) {
  const int64_t numel = stretch.end - stretch.begin;
  if (stretch.parts[0].numbers.numel() == numel) {
    stream.draw(drawing, stretch.parts[0].numbers);
    return;
  }
  const at::Tensor numbers = at::empty({numel}, drawing.dtype);
  stream.draw(drawing, numbers);
  for (const Part& part : stretch.parts) {
    part.numbers.copy_(
        slice_of(numbers, 0, part.begin - stretch.begin, part.numbers.numel()));
  }
}

at::Tensor whole_by_torch(const Drawing& drawing) {
  const at::Tensor whole = at::empty({drawing.numel}, drawing.dtype);
  draw_by_torch(drawing, whole, drawing.generator);
  return whole;
}

bool parts_are_as_torchs(Drawing drawing) {
  constexpr uint64_t kSeed = 11;
  // With a tail; parts next to each other, of one number, and at its edge.
  drawing.numel = 5003;
  using Ranges = std::vector<std::pair<int64_t, int64_t>>;
  const Ranges kTrials[] = {
      {{37, 1300}, {1300, 1301}, {1302, 1310}, {4988, 4990}}, {{2000, 2608}}};
  Drawing theirs = drawing;
  theirs.generator = at::detail::createCPUGenerator(kSeed);
  drawing.generator = at::detail::createCPUGenerator(kSeed);
  for (const Ranges& ranges : kTrials) {  // from an even and an odd word
    const at::Tensor whole = whole_by_torch(theirs);
    std::vector<Part> parts;
    for (const auto& [begin, end] : ranges) {
      parts.push_back({begin, at::empty({end - begin}, drawing.dtype)});
    }
    draw_parts(drawing, parts);
    for (const Part& part : parts) {
      if (!at::equal(
              part.numbers,
              slice_of(whole, 0, part.begin, part.numbers.numel()))) {
        return false;
      }
    }
    if (generator_of(theirs).random() != generator_of(drawing).random()) {
      return false;
    }
  }
  return true;
}

// Whether torch draws without an error, or a special case.
bool has_usual_arguments(const Drawing& drawing) {
  constexpr double kMost = 1e4;  // in each dtype, as the range between two
  switch (drawing.kind) {
    case Kind::kBernoulli:
      return drawing.dtype == at::kFloat && drawing.first > 0 &&
             drawing.first < 1;
    case Kind::kNormal:
      return drawing.numel >= kNormals && drawing.second >= 0;
    case Kind::kUniform:
      return -kMost <= drawing.first && drawing.first <= drawing.second &&
             drawing.second <= kMost;
  }
  return false;
}

}  // namespace

bool can_draw_parts(const Drawing& drawing) {
  const bool is_known =
      drawing.dtype == at::kFloat || drawing.dtype == at::kDouble ||
      drawing.dtype == at::kHalf || drawing.dtype == at::kBFloat16;
  if (!is_known || !has_usual_arguments(drawing) ||
      (drawing.generator.defined() &&
       drawing.generator.device().type() != c10::kCPU)) {
    return false;
  }
  using Key = std::pair<Kind, c10::ScalarType>;
  static auto& mutex = *new std::mutex;  // guards `alike`; a leaf
  static auto& alike = *new std::map<Key, bool>;
  const Key key{drawing.kind, drawing.dtype};
  {
    const std::lock_guard lock(mutex);
    const auto found = alike.find(key);
    if (found != alike.end()) {
      return found->second;
    }
  }
  const bool are_alike = parts_are_as_torchs(drawing);
  const std::lock_guard lock(mutex);
  return alike.try_emplace(key, are_alike).first->second;
}

void draw_parts(const Drawing& drawing, std::vector<Part> parts) {
  const std::vector<Stretch> stretches =
      stretches_of(drawing, std::move(parts));
  with_words(generator_of(drawing), [&](Mersenne& words) {
    Stream stream(words);
    int64_t at = 0;  // words drawn
    for (const Stretch& stretch : stretches) {
      words.skip(words_before(drawing, stretch.begin) - at);
      draw_stretch(drawing, stretch, stream);
      at = words_before(drawing, stretch.end);
    }
    words.skip(words_before(drawing, drawing.numel) - at);
  });
}

}  // namespace torch_mesh

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

template <typename Use>
void with_words(at::CPUGeneratorImpl& generator, Use use) {
  const std::lock_guard lock(generator.mutex_);
  at::mt19937 engine = generator.engine();
  Mersenne words(engine.data());
  use(words);
  engine.set_data(words.data());
  generator.set_engine(engine);
}

void skip(at::CPUGeneratorImpl& generator, int64_t num) {
  if (num > 0) {
    with_words(generator, [&](Mersenne& words) { words.skip(num); });
  }
}

// The generator stands where the first of these is drawn.
void draw(const Drawing& drawing, const at::Tensor& numbers) {
  switch (drawing.kind) {
    case Kind::kBernoulli:
      with_words(generator_of(drawing), [&](Mersenne& words) {
        draw_bernoulli(
            words,
            {numbers.mutable_data_ptr<float>(),
             static_cast<size_t>(numbers.numel())},
            drawing.first,
            static_cast<float>(drawing.second));
      });
      return;
    case Kind::kNormal:
      numbers.normal_(drawing.first, drawing.second, drawing.generator);
      return;
    case Kind::kUniform:
      numbers.uniform_(drawing.first, drawing.second, drawing.generator);
      return;
  }
}

void draw_stretch(const Drawing& drawing, const Stretch& stretch) {
  const int64_t numel = stretch.end - stretch.begin;
  if (stretch.parts[0].numbers.numel() == numel) {
    draw(drawing, stretch.parts[0].numbers);
    return;
  }
  const at::Tensor numbers = at::empty({numel}, drawing.dtype);
  draw(drawing, numbers);
  for (const Part& part : stretch.parts) {
    part.numbers.copy_(
        slice_of(numbers, 0, part.begin - stretch.begin, part.numbers.numel())
            .view(part.numbers.sizes()));
  }
}

// As torch fills the whole.
at::Tensor drawn_by_torch(const Drawing& drawing) {
  const at::Tensor whole = at::empty({drawing.numel}, drawing.dtype);
  if (drawing.kind == Kind::kBernoulli) {
    return whole.bernoulli_(drawing.first, drawing.generator)
        .mul_(drawing.second);
  }
  draw(drawing, whole);
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
    const at::Tensor whole = drawn_by_torch(theirs);
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
  static auto& mutex = *new std::mutex;  // guards `alike`; a leaf
  static auto& alike = *new std::map<std::pair<Kind, c10::ScalarType>, bool>;
  const std::lock_guard lock(mutex);
  const auto [entry, is_new] =
      alike.try_emplace({drawing.kind, drawing.dtype}, false);
  if (is_new) {
    entry->second = parts_are_as_torchs(drawing);
  }
  return entry->second;
}

void draw_parts(const Drawing& drawing, std::vector<Part> parts) {
  at::CPUGeneratorImpl& generator = generator_of(drawing);
  int64_t at = 0;  // words drawn
  for (const Stretch& stretch : stretches_of(drawing, std::move(parts))) {
    skip(generator, words_before(drawing, stretch.begin) - at);
    draw_stretch(drawing, stretch);
    at = words_before(drawing, stretch.end);
  }
  skip(generator, words_before(drawing, drawing.numel) - at);
}

}  // namespace torch_mesh

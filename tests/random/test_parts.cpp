// test_parts.cpp: parts of a drawing are those of the whole, and so is what the
// generator gives next.

#include "random/parts.h"

#include <string>
#include <utility>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "random/mersenne.h"

namespace torch_mesh {
namespace {

using Kind = Drawing::Kind;
using Ranges = std::vector<std::pair<int64_t, int64_t>>;

at::CPUGeneratorImpl& words_of(const at::Generator& generator) {
  return *at::check_generator<at::CPUGeneratorImpl>(generator);
}

TEST(Mersenne, PassesByWhatTheGeneratorWouldGive) {
  for (const int64_t num : {0, 1, 623, 624, 625, 1248, 100'000}) {
    const at::Generator theirs = at::detail::createCPUGenerator(3);
    const at::Generator ours = at::detail::createCPUGenerator(3);
    for (int64_t i = 0; i < num + 5; ++i) {
      words_of(theirs).random();
    }
    words_of(ours).random();
    with_words(words_of(ours), [&](Mersenne& words) {
      words.skip(num);
      for (int i = 0; i < 4; ++i) {
        words.next();
      }
    });
    for (int i = 0; i < 700; ++i) {
      ASSERT_EQ(words_of(theirs).random(), words_of(ours).random()) << num;
    }
  }
}

struct Case {
  const char* about;
  int64_t numel;
  Ranges ranges;

  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.about;
  }
};

class Parts : public testing::TestWithParam<Case> {
 protected:
  // Draws the whole by torch and these ranges by us, from alike generators.
  static void expect_alike(Kind kind, c10::ScalarType dtype, bool from_odd) {
    const Case& c = GetParam();
    Drawing drawing{kind, 0.3, 1.7, dtype, c.numel};
    drawing.generator = at::detail::createCPUGenerator(5);
    const at::Generator theirs = at::detail::createCPUGenerator(5);
    if (from_odd) {
      words_of(drawing.generator).random();
      words_of(theirs).random();
    }
    ASSERT_TRUE(can_draw_parts(drawing));
    const at::Tensor whole = at::empty({c.numel}, dtype);
    switch (kind) {
      case Kind::kBernoulli:
        whole.bernoulli_(0.3, theirs).mul_(1.7);
        break;
      case Kind::kNormal:
        whole.normal_(0.3, 1.7, theirs);
        break;
      case Kind::kUniform:
        whole.uniform_(0.3, 1.7, theirs);
        break;
    }
    std::vector<Part> parts;
    for (const auto& [begin, end] : c.ranges) {
      parts.push_back({begin, at::full({end - begin}, -9, dtype)});
    }
    draw_parts(drawing, parts);
    for (const Part& part : parts) {
      const int64_t end = part.begin + part.numbers.numel();
      EXPECT_TRUE(at::equal(part.numbers, whole.slice(0, part.begin, end)))
          << c.about << ", from " << part.begin;
    }
    EXPECT_EQ(words_of(drawing.generator).random(), words_of(theirs).random());
  }
};

TEST_P(Parts, AreThoseOfTheWhole) {
  for (const bool from_odd : {false, true}) {
    expect_alike(Kind::kBernoulli, at::kFloat, from_odd);
    for (const auto dtype :
         {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
      expect_alike(Kind::kUniform, dtype, from_odd);
      expect_alike(Kind::kNormal, dtype, from_odd);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    OfDrawings,
    Parts,
    testing::Values(
        Case{"none", 1000, {}},
        Case{"an empty one", 1000, {{7, 7}}},
        Case{"all, without a tail", 1024, {{0, 1024}}},
        Case{"all, with a tail", 1030, {{0, 1030}}},
        Case{"halves", 4099, {{0, 2050}, {2050, 4099}}},
        Case{"the first half", 4099, {{0, 2050}}},
        Case{"the last number", 4099, {{4098, 4099}}},
        Case{"before the tail", 4099, {{4080, 4083}}},
        Case{"across the tail's edge", 4099, {{4000, 4090}}},
        Case{"of one block of 16", 64, {{17, 19}, {20, 25}, {31, 32}}},
        Case{"in another order", 3000, {{2000, 2010}, {5, 900}}},
        Case{"columns", 600, {{10, 20}, {110, 120}, {210, 220}, {510, 520}}},
        Case{"the least that torch draws in blocks", 16, {{3, 5}}},
        Case{"one more", 17, {{16, 17}}}));

TEST(Parts, AreNotDrawnOfWhatTorchRefusesOrDrawsOtherwise) {
  const Drawing usual{Kind::kNormal, 0, 1, at::kFloat, 100};
  auto can = [&](auto change) {
    Drawing drawing = usual;
    change(drawing);
    return can_draw_parts(drawing);
  };
  EXPECT_TRUE(can([](Drawing&) {}));
  EXPECT_FALSE(can([](Drawing& d) { d.numel = 15; }));
  EXPECT_FALSE(can([](Drawing& d) { d.second = -1; }));
  EXPECT_FALSE(can([](Drawing& d) { d.dtype = at::kLong; }));
  EXPECT_FALSE(can([](Drawing& d) {
    d.kind = Kind::kUniform;
    d.first = 2;
  }));
  for (const double p : {0.0, 1.0, 1.5}) {
    EXPECT_FALSE(can([&](Drawing& d) {
      d.kind = Kind::kBernoulli;
      d.first = p;
    }));
  }
}

}  // namespace
}  // namespace torch_mesh

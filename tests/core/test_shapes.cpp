// test_shapes.cpp: what a device holds of a dim, and strides.

#include "core/shapes.h"

#include <set>

#include <gtest/gtest.h>

#include "core/error_of.h"

namespace torch_mesh {
namespace {

using Sizes = std::vector<int64_t>;

Layout parse(std::vector<Mesh::Axis> axes, std::string_view text) {
  return Layout::parse(Mesh(std::move(axes)), text);
}

// Sizes on all devices.
std::vector<Sizes> all_sizes(const Layout& layout, const Sizes& sizes) {
  std::vector<Sizes> result;
  for (int device = 0; device < layout.mesh().size(); ++device) {
    result.push_back(shard_sizes(layout, sizes, device));
  }
  return result;
}

// Ranges of dim 0 on all devices.
std::vector<Range> all_ranges(const Layout& layout, const Sizes& sizes) {
  std::vector<Range> result;
  for (int device = 0; device < layout.mesh().size(); ++device) {
    result.push_back(shard_range(layout, sizes, 0, device));
  }
  return result;
}

// --- chunk -------------------------------------------------------------------

TEST(Chunk, OfAnEvenSizeIsEqual) { EXPECT_EQ(chunk(8, 4, 3), (Range{6, 2})); }

TEST(Chunk, OfAnUnevenSizeIsLessAtTheEnd) {
  EXPECT_EQ(chunk(7, 4, 2), (Range{4, 2}));
  EXPECT_EQ(chunk(7, 4, 3), (Range{6, 1}));
}

TEST(Chunk, IsEmptyWhereNothingIsLeft) {
  EXPECT_EQ(chunk(9, 4, 3), (Range{9, 0}));
  EXPECT_EQ(chunk(2, 4, 3), (Range{2, 0}));
  EXPECT_EQ(chunk(0, 4, 1), (Range{0, 0}));
}

TEST(Chunk, TilesEverySize) {
  for (int64_t size = 0; size < 20; ++size) {
    for (int64_t n = 1; n < 9; ++n) {
      int64_t end = 0;
      for (int64_t i = 0; i < n; ++i) {
        const Range range = chunk(size, n, i);
        EXPECT_EQ(range.begin, end) << size << " over " << n;
        end += range.length;
      }
      EXPECT_EQ(end, size) << size << " over " << n;
    }
  }
}

// --- sizes and ranges --------------------------------------------------------

TEST(ShardSizes, OfAReplicaAreTheWhole) {
  EXPECT_EQ(
      all_sizes(parse({{"a", 2}}, "(R)"), {3, 4}),
      (std::vector<Sizes>{{3, 4}, {3, 4}}));
}

TEST(ShardSizes, OfAPartialSumAreTheWhole) {
  EXPECT_EQ(shard_sizes(parse({{"a", 2}}, "(P+)"), Sizes{3}, 1), (Sizes{3}));
}

TEST(ShardSizes, OfAnUnevenDimAreLessOnTheLastDevice) {
  EXPECT_EQ(
      all_sizes(parse({{"a", 4}}, "(S1)"), {3, 7}),
      (std::vector<Sizes>{{3, 2}, {3, 2}, {3, 2}, {3, 1}}));
}

TEST(ShardSizes, AreZeroWhereDevicesOutnumberElements) {
  EXPECT_EQ(
      all_sizes(parse({{"a", 4}}, "(S0)"), {2}),
      (std::vector<Sizes>{{1}, {1}, {0}, {0}}));
}

TEST(ShardSizes, OfAnEmptyDimAreZero) {
  EXPECT_EQ(
      all_sizes(parse({{"a", 2}}, "(S0)"), {0, 5}),
      (std::vector<Sizes>{{0, 5}, {0, 5}}));
}

TEST(ShardSizes, OfATensorWithoutDimsAreNone) {
  EXPECT_EQ(shard_sizes(parse({{"a", 2}}, "(R)"), Sizes{}, 1), Sizes{});
}

TEST(ShardSizes, AreTheWholeOnAnAxisOfSizeOne) {
  EXPECT_EQ(
      all_sizes(parse({{"a", 1}, {"b", 2}}, "(S0, R)"), {5}),
      (std::vector<Sizes>{{5}, {5}}));
}

TEST(ShardSizes, OfTwoDimsFollowAnAxisEach) {
  EXPECT_EQ(
      all_sizes(parse({{"a", 2}, {"b", 2}}, "(S1, S0)"), {3, 8}),
      (std::vector<Sizes>{{2, 4}, {1, 4}, {2, 4}, {1, 4}}));
}

TEST(ShardSizes, OfOneDimOnTwoAxesNest) {
  // 5 over a: 3 2; then over b: 2 1 and 1 1.
  EXPECT_EQ(
      all_sizes(parse({{"a", 2}, {"b", 2}}, "(S0, S0)"), {5}),
      (std::vector<Sizes>{{2}, {1}, {1}, {1}}));
}

TEST(ShardSizes, OfBlocksArePartsOfEach) {
  // 4 blocks of 6, each in parts of 2.
  EXPECT_EQ(
      all_sizes(parse({{"a", 3}}, "(S0/6)"), {24}),
      (std::vector<Sizes>{{8}, {8}, {8}}));
}

TEST(ShardSizes, OfBlocksReferToWhatEarlierAxesLeave) {
  EXPECT_EQ(
      shard_sizes(
          parse({{"data", 2}, {"model", 2}}, "(S0, S0/4)"), Sizes{32}, 1),
      (Sizes{8}));
}

TEST(ShardSizes, OfBlocksInBlocksShortenTwice) {
  EXPECT_EQ(
      shard_sizes(parse({{"a", 2}, {"b", 2}}, "(S0/8, S0/4)"), Sizes{64}, 3),
      (Sizes{16}));
}

TEST(ShardRange, OfAReplicaIsTheWhole) {
  EXPECT_EQ(
      all_ranges(parse({{"a", 2}}, "(P+)"), {5}),
      (std::vector<Range>{{0, 5}, {0, 5}}));
}

TEST(ShardRange, NestsTheLaterAxisInTheEarlier) {
  EXPECT_EQ(
      all_ranges(parse({{"a", 2}, {"b", 2}}, "(S0, S0)"), {7}),
      (std::vector<Range>{{0, 2}, {2, 2}, {4, 2}, {6, 1}}));
}

TEST(ShardRange, OfAnotherDimIsUntouched) {
  EXPECT_EQ(
      shard_range(parse({{"a", 2}}, "(S1)"), Sizes{6, 4}, 0, 1), (Range{0, 6}));
}

TEST(ShardRange, DoesNotExistForBlocks) {
  const Layout layout = parse({{"a", 2}}, "(S0/4)");
  EXPECT_EQ(error_code_of([&] { shard_range(layout, Sizes{8}, 0, 0); }), "bug");
}

TEST(ShardRange, OfAllDevicesTilesTheDim) {
  for (const char* text : {"(S0, S0, S0)", "(S0, R, S0)", "(R, S0, P+)"}) {
    const Layout layout = parse({{"a", 2}, {"b", 3}, {"c", 2}}, text);
    for (int64_t size = 0; size < 16; ++size) {
      std::vector<int> holders(size, 0);
      int replicas = 1;
      for (int a = 0; a < 3; ++a) {
        replicas *= layout[a].is_shard() ? 1 : layout.mesh().axis(a).size;
      }
      for (const Range& range : all_ranges(layout, {size})) {
        for (int64_t i = 0; i < range.length; ++i) {
          ++holders[range.begin + i];
        }
      }
      EXPECT_EQ(holders, std::vector<int>(size, replicas))
          << text << " of " << size;
    }
  }
}

TEST(ShardRange, IsAsLongAsTheShard) {
  const Layout layout = parse({{"a", 2}, {"b", 3}}, "(S0, S0)");
  for (int64_t size = 0; size < 16; ++size) {
    for (int device = 0; device < 6; ++device) {
      EXPECT_EQ(
          shard_range(layout, Sizes{size}, 0, device).length,
          shard_sizes(layout, Sizes{size}, device)[0])
          << size << " on device " << device;
    }
  }
}

TEST(ShardSizes, OfAllDevicesAddUp) {
  const std::vector<Mesh::Axis> axes = {{"a", 2}, {"b", 3}, {"c", 1}};
  for (const char* text :
       {"(S0, S1, R)", "(S1, S1, S0)", "(S0/4, S1, S0)", "(S0, S0/6, S1)"}) {
    const Layout layout = parse(axes, text);
    for (int64_t size = 0; size < 12; ++size) {
      const Sizes sizes = {24, size};
      int64_t sum = 0;
      for (const Sizes& shard : all_sizes(layout, sizes)) {
        sum += shard[0] * shard[1];
      }
      EXPECT_EQ(sum, 24 * size) << text << " of [24, " << size << "]";
    }
  }
}

void expect_lengths_of_devices(std::string_view text, int64_t size) {
  const Layout layout = parse({{"a", 2}, {"b", 3}}, text);
  std::set<int64_t> seen;
  for (const Sizes& shard : all_sizes(layout, {size, 2})) {
    seen.insert(shard[0]);
  }
  EXPECT_EQ(
      shard_lengths(layout.mesh(), layout.placements(), Sizes{size, 2}, 0),
      Sizes(seen.begin(), seen.end()))
      << text << " of " << size;
}

TEST(ShardLengths, AreThoseThatDevicesHave) {
  for (int64_t size = 0; size < 16; ++size) {
    expect_lengths_of_devices("(S0, S0)", size);
    expect_lengths_of_devices("(S0, R)", size);
    expect_lengths_of_devices("(S1, S0)", size);
    expect_lengths_of_devices("(S0, S0/3)", 6 * size);
  }
}

TEST(ShardLengths, AreNoneWhereABlockDoesNotFit) {
  const Layout layout = parse({{"a", 2}}, "(S0/4)");
  EXPECT_EQ(
      shard_lengths(layout.mesh(), layout.placements(), Sizes{6}, 0), Sizes{});
}

// --- check_layout ------------------------------------------------------------

TEST(CheckLayout, NamesADimThatTheTensorDoesNotHave) {
  const Layout layout = parse({{"data", 2}, {"model", 2}}, "(R, S2)");
  EXPECT_EQ(
      error_of([&] { check_layout(layout, Sizes{8, 4}); }),
      "Layout: S2 shards dim 2, and the tensor has 2 dims.\n"
      "  tensor  [8, 4] (R, S2)\n"
      "  mesh    data=2 model=2\n"
      "Hint: dims count from 0; R leaves an axis without a dim to shard. "
      "[layout-dim]");
}

TEST(CheckLayout, RefusesANegativeDim) {
  const std::vector<Placement> placements = {Placement::shard(-1)};
  const Layout layout(Mesh({{"a", 2}}), placements);
  EXPECT_EQ(
      error_code_of([&] { check_layout(layout, Sizes{8}); }), "layout-dim");
}

TEST(CheckLayout, NamesABlockThatDoesNotDivideItsDim) {
  const Layout layout = parse({{"a", 2}}, "(S0/4)");
  EXPECT_EQ(
      error_of([&] { check_layout(layout, Sizes{10}); }),
      "Layout: S0/4 does not cut a dim of 10 in whole blocks with 2 equal "
      "parts each.\n"
      "  tensor  [10] (S0/4)\n"
      "  mesh    a=2\n"
      "Hint: choose a block that divides the dim as earlier axes leave it, "
      "and that the size of the axis divides. [layout-block]");
}

struct LayoutCase {
  const char* text;
  Sizes sizes;
  const char* code;
};

class LayoutOnTwoByThree : public testing::TestWithParam<LayoutCase> {};

TEST_P(LayoutOnTwoByThree, IsCheckedAgainstTheSizes) {
  const auto& [text, sizes, code] = GetParam();
  const Layout layout = parse({{"a", 2}, {"b", 3}}, text);
  EXPECT_EQ(error_code_of([&] { check_layout(layout, sizes); }), code) << text;
}

INSTANTIATE_TEST_SUITE_P(
    Table,
    LayoutOnTwoByThree,
    testing::Values(
        LayoutCase{"(R, P+)", {}, ""},
        LayoutCase{"(S0, R)", {}, "layout-dim"},
        LayoutCase{"(S0, S0)", {1}, ""},
        LayoutCase{"(S0/4, R)", {0}, ""},
        LayoutCase{"(R, S0/4)", {8}, "layout-block"},
        LayoutCase{"(R, S0/6)", {8}, "layout-block"},
        // 12 over 2 leaves 6.
        LayoutCase{"(S0, S0/6)", {12}, ""},
        LayoutCase{"(S0, S0/12)", {12}, "layout-block"},
        // 9 over 2 leaves 5 4; 3 divides neither.
        LayoutCase{"(S0, S0/3)", {9}, "layout-block"},
        // 3 over 2 leaves 2 1.
        LayoutCase{"(S0, S0/3)", {3}, "layout-block"},
        LayoutCase{"(S0/6, S0/3)", {12}, ""},
        LayoutCase{"(S0/6, S1/6)", {12, 6}, ""}));

// --- strides -----------------------------------------------------------------

TEST(ContiguousStrides, RunFastestInTheLastDim) {
  EXPECT_EQ(contiguous_strides(Sizes{2, 3, 4}), (Sizes{12, 4, 1}));
}

TEST(ContiguousStrides, CountAnEmptyDimAsOne) {
  EXPECT_EQ(contiguous_strides(Sizes{2, 0, 4}), (Sizes{4, 4, 1}));
}

TEST(ContiguousStrides, OfNoDimsAreNone) {
  EXPECT_EQ(contiguous_strides(Sizes{}), Sizes{});
}

TEST(StridesInOrder, OfAContiguousTensorAreContiguous) {
  EXPECT_EQ(
      strides_in_order_of(Sizes{2, 3, 4}, Sizes{120, 20, 1}),
      (Sizes{12, 4, 1}));
}

TEST(StridesInOrder, KeepATransposedOrder) {
  EXPECT_EQ(strides_in_order_of(Sizes{2, 3}, Sizes{1, 8}), (Sizes{1, 2}));
}

TEST(StridesInOrder, KeepChannelsLast) {
  EXPECT_EQ(
      strides_in_order_of(Sizes{2, 3, 4, 5}, Sizes{60, 1, 15, 3}),
      (Sizes{60, 1, 15, 3}));
}

TEST(StridesInOrder, PutTheSmallerOfTwoDimsOfOneStrideInside) {
  // What torch.empty_like gives for one channel in channels-last order.
  EXPECT_EQ(
      strides_in_order_of(Sizes{2, 1, 4, 5}, Sizes{20, 1, 5, 1}),
      (Sizes{20, 1, 5, 1}));
}

TEST(StridesInOrder, LeaveAnExpandedDimInItsPlace) {
  EXPECT_EQ(
      strides_in_order_of(Sizes{2, 3, 4}, Sizes{4, 0, 1}), (Sizes{12, 4, 1}));
}

TEST(StridesInOrder, LeaveDenseStridesAsTheyAre) {
  EXPECT_EQ(strides_in_order_of(Sizes{1, 3}, Sizes{7, 1}), (Sizes{7, 1}));
  EXPECT_EQ(strides_in_order_of(Sizes{3, 0}, Sizes{0, 1}), (Sizes{0, 1}));
}

}  // namespace
}  // namespace torch_mesh

// Windows as slices and selects of their base, by sizes and strides alone.

#include <gtest/gtest.h>

#include "plan/chain.h"

namespace torch_mesh {
namespace {

using Sizes = std::vector<int64_t>;

// A base of [7, 5], row-major.
std::optional<Chain> window(Sizes sizes, Sizes strides, int64_t offset) {
  const Sizes base_sizes{7, 5};
  const Sizes base_strides{5, 1};
  return chain_of(base_sizes, base_strides, sizes, strides, offset);
}

TEST(Chain, finds_selects_slices_and_permutes) {
  const auto row = window({5}, {1}, 15);
  ASSERT_TRUE(row);
  EXPECT_EQ((*row)[0].window_dim, -1);
  EXPECT_EQ((*row)[0].start, 3);
  EXPECT_EQ((*row)[1].window_dim, 0);
  const auto rows = window({3, 2}, {10, 1}, 6);  // base[1::2][:3, 1:3]
  ASSERT_TRUE(rows);
  EXPECT_EQ((*rows)[0].step, 2);
  EXPECT_EQ((*rows)[0].start, 1);
  EXPECT_EQ((*rows)[1].start, 1);
  EXPECT_EQ((*rows)[1].length, 2);
  const auto transposed = window({5, 7}, {1, 5}, 0);
  ASSERT_TRUE(transposed);
  EXPECT_EQ((*transposed)[0].window_dim, 1);
  EXPECT_EQ((*transposed)[1].window_dim, 0);
}

TEST(Chain, is_none_of_what_runs_over_the_end_of_a_row) {
  EXPECT_FALSE(window({6}, {1}, 0));        // a flat run
  EXPECT_FALSE(window({5}, {6}, 0));        // a diagonal
  EXPECT_FALSE(window({2, 5}, {0, 1}, 0));  // an expanded row
  EXPECT_FALSE(window({1}, {1}, 35));       // behind the end
}

TEST(Chain, says_which_of_its_elements_lie_in_a_part) {
  const Taken taken{.start = 2, .step = 3, .length = 4};  // 2, 5, 8, 11
  EXPECT_EQ(taken.within({0, 12}), (Range{0, 4}));
  EXPECT_EQ(taken.within({0, 3}), (Range{0, 1}));
  EXPECT_EQ(taken.within({3, 3}), (Range{1, 1}));
  EXPECT_EQ(taken.within({6, 2}), (Range{2, 0}));
  EXPECT_EQ(taken.within({8, 100}), (Range{2, 2}));
  EXPECT_EQ(taken.within({12, 5}).length, 0);
  EXPECT_EQ(taken.within({4, 0}).length, 0);
}

TEST(Chain, parts_of_a_dim_share_a_window_without_gap_or_overlap) {
  for (int64_t start = 0; start < 4; ++start) {
    for (int64_t step = 1; step < 5; ++step) {
      for (int64_t length = 1; start + (length - 1) * step < 13; ++length) {
        const Taken taken{.start = start, .step = step, .length = length};
        int64_t next = 0;
        for (int i = 0; i < 4; ++i) {
          const Range mine = taken.within(chunk(13, 4, i));
          if (mine.length > 0) {
            EXPECT_EQ(mine.begin, next);
            next += mine.length;
          }
        }
        EXPECT_EQ(next, length);
      }
    }
  }
}

}  // namespace
}  // namespace torch_mesh

// Boxes that devices copy to read a window on a cut base.

#include "plan/boxes.h"

#include <gtest/gtest.h>

#include "plan/chain.h"

namespace torch_mesh {
namespace {

using Sizes = std::vector<int64_t>;

struct Separate {
  Separate() { separate_cpu_memories(true); }
  ~Separate() { separate_cpu_memories(false); }
};

// The copies by which a window on a base of [7, 4] in `layout` is taken.
BoxCopies taken(
    const Mesh& mesh,
    const char* layout,
    const Sizes& sizes,
    const Sizes& strides,
    int64_t offset) {
  const Sizes base_sizes{7, 4};
  const Sizes base_strides{4, 1};
  const Layout base = Layout::parse(mesh, layout);
  const auto chain = chain_of(base_sizes, base_strides, sizes, strides, offset);
  const Layout window = layout_of_window(base, *chain, sizes);
  return plan_copies(
      holding_of_window(base, base_sizes, *chain, sizes.size()),
      holding_of(window, sizes),
      /*itemsize=*/4);
}

TEST(Boxes, a_row_goes_from_its_owner_to_all) {
  const Separate separate;
  const Mesh mesh({{"data", 3}});
  const BoxCopies row = taken(mesh, "(S0)", {4}, {1}, 4 * 4);
  EXPECT_EQ(row.str(), "0 <- 1: [0:4]\n1 <- 1: [0:4]\n2 <- 1: [0:4]\n");
  EXPECT_EQ(row.axis, 0);
  EXPECT_EQ(row.num_bytes, 16);
  EXPECT_EQ(row.received, Sizes({16, 0, 16}));
}

TEST(Boxes, a_slice_stays_cut_and_only_its_edges_move) {
  const Separate separate;
  const Mesh mesh({{"data", 3}});
  // Chunks of 3, 3, 1 rows; of the window's six rows 2, 2, 2.
  const BoxCopies slice = taken(mesh, "(S0)", {6, 4}, {4, 1}, 4);
  EXPECT_EQ(
      slice.str(),
      "0 <- 0: [0:2, 0:4]\n1 <- 1: [2:4, 0:4]\n"
      "2 <- 1: [4:5, 0:4]\n2 <- 2: [5:6, 0:4]\n");
  EXPECT_EQ(slice.received, Sizes({0, 0, 16}));
}

TEST(Boxes, an_element_moves_alone) {
  const Separate separate;
  const Mesh mesh({{"data", 2}});
  const BoxCopies element = taken(mesh, "(S1)", {}, {}, 3);
  EXPECT_EQ(element.str(), "0 <- 1: [0:1]\n1 <- 1: [0:1]\n");
  EXPECT_EQ(element.num_bytes, 4);
}

TEST(Boxes, a_device_reads_along_the_axes_that_cut) {
  const Separate separate;
  const Mesh mesh({{"data", 2}, {"model", 2}});
  const BoxCopies row = taken(mesh, "(R, S0)", {4}, {1}, 0);
  EXPECT_EQ(
      row.str(),
      "0 <- 0: [0:4]\n1 <- 0: [0:4]\n2 <- 2: [0:4]\n3 <- 2: [0:4]\n");
  EXPECT_EQ(row.axis, 1);
  // Rows 1:5, columns 1:3 of both cut dims: the corners too.
  const BoxCopies box = taken(mesh, "(S0, S1)", {4, 2}, {4, 1}, 5);
  EXPECT_EQ(
      box.str(),
      "0 <- 0: [0:2, 0:1]\n1 <- 1: [0:2, 1:2]\n"
      "2 <- 0: [2:3, 0:1]\n2 <- 2: [3:4, 0:1]\n"
      "3 <- 1: [2:3, 1:2]\n3 <- 3: [3:4, 1:2]\n");
}

TEST(Boxes, in_one_memory_bytes_are_counted_and_none_is_received) {
  const Mesh mesh({{"data", 3}});
  const BoxCopies row = taken(mesh, "(S0)", {4}, {1}, 4 * 4);
  EXPECT_EQ(row.str(), "0 <- 1: [0:4]\n");
  EXPECT_EQ(row.num_bytes, 16);
  EXPECT_TRUE(row.received.empty());
}

TEST(Boxes, what_is_empty_moves_nothing) {
  const Mesh mesh({{"data", 3}});
  EXPECT_EQ(taken(mesh, "(S0)", {0, 4}, {4, 1}, 0).str(), "");
}

}  // namespace
}  // namespace torch_mesh

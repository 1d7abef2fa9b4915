// boxes.h: which box of a value each device holds, and what devices copy so
// that each gets the box it wants. No torch.
//
// A window on a cut tensor is read and written so: what a device has of the
// window follows from its shard of the base (plan/chain.h), what it wants from
// the window's own layout, and nothing else moves.

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <torch_mesh/layout.h>

#include "plan/chain.h"

namespace torch_mesh {

// A range of each dim; empty if one of them is. A value without dims counts as
// a row of one element.
using Box = std::vector<Range>;

bool is_empty(const Box& box);
int64_t numel(const Box& box);
// What both have.
Box intersection(const Box& a, const Box& b);

// What the devices of a mesh hold of one value. Devices that differ on other
// axes than those of `cut` alone hold the same.
struct Holding {
  Mesh mesh;
  AxisMask cut = 0;
  std::vector<Box> boxes;  // [devices]
  bool operator==(const Holding&) const = default;
};

// Of a tensor in this layout. Requires: no blocks (has_ranges).
Holding holding_of(const Layout& layout, std::span<const int64_t> sizes);

// Of a window with `num_dims` dims on a base in this layout, in the window's
// numbers. Requires: no blocks.
Holding holding_of_window(
    const Layout& base,
    std::span<const int64_t> base_sizes,
    const Chain& taken,
    size_t num_dims);

// The layout of a window that is taken from its base: dims that are cut stay
// cut by the same axes; a select leaves R. Sums stay sums.
//   sizes   of the window
Layout layout_of_window(
    const Layout& base,
    const Chain& taken,
    std::span<const int64_t> sizes);

struct BoxCopy {
  int from;  // device
  int to;    // device; may be the same
  Box box;   // in numbers of the value
  bool operator==(const BoxCopy&) const = default;
};

// Copies by which devices that hold `from` come to hold `to`. They are counted
// as one all-to-all along the first axis that they go along.
struct BoxCopies {
  std::vector<BoxCopy> copies;  // for the first device of each lane of `to`
  int axis = -1;                // -1: no device needs what another has
  int64_t num_bytes = 0;        // as Step::num_bytes
  std::vector<int64_t> received = {};  // as Step::received
  // "2 <- 0: [0:2, 0:8]", a line for each copy.
  std::string str() const;
};

// A device reads what it lacks from the one that stands at its own coordinates
// on all axes along which `from` is not cut. A pure function.
BoxCopies plan_copies(const Holding& from, const Holding& to, int64_t itemsize);

}  // namespace torch_mesh

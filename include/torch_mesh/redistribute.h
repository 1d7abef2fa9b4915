// redistribute.h: from one layout to another, as a list of steps.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// One action along a mesh axis, or a sum along several.
struct Step {
  enum class Kind : uint8_t {
    kSlice,          // R  -> S   each device keeps its chunk; moves nothing
    kAllGather,      // S  -> R
    kAllReduce,      // P+ -> R
    kReduceScatter,  // P+ -> S
    kAllToAll,       // S  -> S of another dim
    kToPartial,      // R  -> P+  the first device keeps the value, the others
                     //           hold -0.0; moves nothing
  };
  Kind kind;
  int axis;
  Placement from;
  Placement to;
  // Received by the device that receives most, if no two share a memory.
  int64_t num_bytes;
  Layout after;  // of the whole tensor, when the step is done
  // Bytes that each device receives from other memories than its own; empty
  // where all devices share one.
  std::vector<int64_t> received = {};

  // One collective of an all-reduce along several axes.
  struct Part {
    Kind kind;  // kReduceScatter, kAllReduce or kAllGather
    int axis;
    int64_t num_bytes = 0;               // as the step's
    std::vector<int64_t> received = {};  // as the step's
    bool operator==(const Part&) const = default;
  };
  // Those of such a step, in order; its `axis` is the first, and its bytes are
  // theirs together. They cut what the devices hold as a flat run of elements.
  // Empty for all other steps.
  std::vector<Part> parts = {};

  // All that it goes along.
  AxisMask axes() const;
  bool communicates() const {
    return kind != Kind::kSlice && kind != Kind::kToPartial;
  }
  // As text_of_collective; of several parts theirs, as in a redistribution.
  std::string str() const;
  bool operator==(const Step&) const = default;
};

// "slice", "all_gather", "all_reduce", "reduce_scatter", "all_to_all",
// "to_partial".
const char* name(Step::Kind kind);

// "24 B", "1.5 MiB": four digits at most, in the largest unit that leaves 1.
std::string format_bytes(int64_t num_bytes);

// "all_gather@model 24 B"; of what devices of several processes receive
// "all_gather@model 24 B between processes".
std::string text_of_collective(
    Step::Kind kind,
    const Mesh& mesh,
    int axis,
    int64_t num_bytes);

struct Redistribution {
  Layout from;
  Layout to;
  std::vector<Step> steps;          // empty if from == to
  std::vector<int64_t> sizes = {};  // of the whole tensor, if there are steps

  int64_t num_bytes() const;
  // "slice@data 0 B, all_gather@model 24 B"
  std::string str() const;
  bool operator==(const Redistribution&) const = default;
};

// The cheapest list of steps: fewest bytes received per device, then fewest
// steps. A pure function of its arguments.
//
// Axes that shard the same dim nest, the later inside the earlier, so a step
// may only remove or add the innermost one: the search (Dijkstra's, over the
// layouts that lie between) finds the order. Sums over several axes are formed
// at once: scattered along one axis, less is left for the others.
//
// from, to   Layouts on the same mesh, valid for `sizes`.
// itemsize   Bytes of one element.
// Throws [redistribute-mesh] if the meshes differ.
Redistribution plan_redistribution(
    const Layout& from,
    const Layout& to,
    std::span<const int64_t> sizes,
    int64_t itemsize);

}  // namespace torch_mesh

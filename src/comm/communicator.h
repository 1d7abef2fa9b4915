// communicator.h: what moves shards between the devices of a mesh.
//
// A call is one step of a whole mesh, of one value or of many: along one axis,
// or of sums a set of axes, for all of its groups at once. A group are the
// devices that differ in their coordinate on that axis alone. Devices that
// share a memory hold one part of a sum between them: of sums a group has as
// many members as memories, in the order of the axis.
//
// Requires: a LocalOps guard on the caller.
// Threads: all members may be called from any thread.

#pragma once

#include <span>
#include <vector>

#include <torch_mesh/redistribute.h>

#include "shard/shard.h"

namespace torch_mesh {

class Communicator {
 public:
  virtual ~Communicator() = default;

  // Who runs a collective counts it (count_call in trace/counters.h).

  // The sums over a set of axes, on each device, in the parts that a planner
  // chose. Each reduce-scatter and all-reduce adds up along its axis, in the
  // order of the axis; half-precision parts travel as they are, and these sums
  // are formed in float32 and rounded once.
  //
  //   how          the collectives, in order, as plan/sums.h makes them: each
  //                cuts what a device has as a flat run of elements
  //   cut          axes that make lanes of the operands
  //   operands[k]  parts of a sum, one for each lane; all of one dtype
  //   result[k]    its sum, one for each lane; memory of its own
  //
  // Many operands travel as one.
  virtual std::vector<Shards> all_reduce(
      const Mesh& mesh,
      std::span<const Step::Part> how,
      AxisMask cut,
      const std::vector<Shards>& operands) = 0;

  // The other steps: from the shards of `before`, one for each lane, those of
  // step.after. May alias them where one device keeps what it has.
  struct Moved {
    const Step& step;
    const Layout& before;
    std::span<const int64_t> sizes;  // of the whole tensor
    const Shards& shards;
  };
  // Of one kind, along one axis of one mesh, of one dtype. Not empty; travels
  // as one.
  using Bucket = std::span<const Moved>;
  virtual std::vector<Shards> reduce_scatter(Bucket parts) = 0;
  virtual std::vector<Shards> all_gather(Bucket shards) = 0;
  virtual std::vector<Shards> all_to_all(Bucket shards) = 0;

  // Copies between memories of the same sizes and dtype, in any order.
  //
  //   from, to        devices
  //   source, target  a view of what each holds; the targets do not overlap
  struct Copy {
    int from;
    int to;
    Shard source;
    Shard target;
  };
  // An all-to-all along `axis`; -1: each device copies what it holds itself.
  virtual void copy(
      const Mesh& mesh,
      int axis,
      const std::vector<Copy>& copies) = 0;
};

// The one that serves a mesh. Throws, as a bug of ours, if the caller holds a
// lock of a storage.
Communicator& communicator_of(const Mesh& mesh);

// Lets another one serve all meshes; nullptr ends it.
void set_communicator_for_testing(Communicator* communicator);
// Lets one serve all meshes of which every call throws; false ends it.
void refuse_to_communicate_for_testing(bool refuse);

}  // namespace torch_mesh

// communicator.cpp: who serves a mesh, and the account of its calls.

#include "comm/communicator.h"

#include <atomic>

#include "comm/held_locks.h"
#include "comm/in_process.h"
#include "comm/null.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

std::atomic<Communicator*> for_testing{nullptr};

void count(Step::Kind kind, const Mesh& mesh, int axis) {
  if (!mesh.one_memory()) {
    count_call(kind, mesh, axis);
  }
}

void count(Communicator::Bucket bucket) {
  const Step& step = bucket.front().step;
  count(step.kind, step.after.mesh(), step.axis);
}

}  // namespace

std::vector<Shards> Communicator::all_reduce(
    const Mesh& mesh,
    std::span<const Step::Part> how,
    AxisMask cut,
    const std::vector<Shards>& operands) {
  for (const Step::Part& part : how) {
    count(part.kind, mesh, part.axis);
  }
  return run_all_reduce(mesh, how, cut, operands);
}

std::vector<Shards> Communicator::reduce_scatter(Bucket parts) {
  count(parts);
  return run_reduce_scatter(parts);
}

std::vector<Shards> Communicator::all_gather(Bucket shards) {
  count(shards);
  return run_all_gather(shards);
}

std::vector<Shards> Communicator::all_to_all(Bucket shards) {
  count(shards);
  return run_all_to_all(shards);
}

void Communicator::copy(
    const Mesh& mesh,
    int axis,
    const std::vector<Copy>& copies) {
  if (axis >= 0) {
    count(Step::Kind::kAllToAll, mesh, axis);
  }
  run_copies(mesh, copies);
}

Communicator& communicator_of(const Mesh& mesh) {
  check_no_lock_is_held("a collective");
  if (Communicator* other = for_testing.load(std::memory_order_relaxed)) {
    return *other;
  }
  return mesh.is_null() ? null_communicator() : in_process_communicator();
}

void set_communicator_for_testing(Communicator* communicator) {
  for_testing = communicator;
}

}  // namespace torch_mesh

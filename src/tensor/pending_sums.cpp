// pending_sums.cpp: buckets of storages, and what becomes of them.

#include "tensor/pending_sums.h"

#include <algorithm>
#include <mutex>

#include <torch_mesh/redistribute.h>

#include "comm/communicator.h"
#include "comm/run_steps.h"
#include "core/groups.h"
#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// Sums over one axis that can travel together.
struct Bucket {
  Mesh mesh;
  AxisMask cut = 0;  // axes that make lanes
  c10::ScalarType dtype;
  std::vector<MeshStorage*> storages;
  int64_t num_bytes = 0;

  bool takes(const MeshStorage& storage) const {
    return mesh == storage.layout.mesh() &&
           cut == storage.layout.sharded_axes() && dtype == storage.dtype;
  }
};

// Elements that a lane holds of all of these.
int64_t numel_of_lane(const std::vector<MeshStorage*>& storages, int lane) {
  int64_t numel = 0;
  for (const MeshStorage* storage : storages) {
    numel += storage->shards[lane].numel();
  }
  return numel;
}

void count(const Bucket& bucket, int axis) {
  const int64_t itemsize = static_cast<int64_t>(c10::elementSize(bucket.dtype));
  const int64_t n = bucket.mesh.axis(axis).size;
  std::vector<int64_t> received;
  if (!bucket.mesh.one_memory()) {
    std::vector<int64_t> numel;
    for (int lane = 0; lane < bucket.mesh.lanes(bucket.cut).num; ++lane) {
      numel.push_back(numel_of_lane(bucket.storages, lane));
    }
    received = received_in_rings(bucket.mesh, axis, bucket.cut, numel);
    for (int64_t& number : received) {
      number *= itemsize;
    }
  }
  // The first lane's is the largest chunk of each.
  const int64_t num_bytes =
      itemsize * received_in_ring(numel_of_lane(bucket.storages, 0), n);
  count_collective(
      Step::Kind::kAllReduce, bucket.mesh, axis, num_bytes, received);
}

void reduce(Bucket bucket, int axis) {
  std::vector<Shards> parts;  // freed when no lock is held any more
  // In one order for all, so that no two calls wait for each other.
  std::vector<MeshStorage*> in_order = bucket.storages;
  std::sort(in_order.begin(), in_order.end(), std::less<>());
  std::vector<std::unique_lock<std::mutex>> locks;
  for (MeshStorage* storage : in_order) {
    locks.emplace_back(storage->mutex);
  }
  // Another reader may have come first.
  std::erase_if(bucket.storages, [&](const MeshStorage* storage) {
    return storage->is_unwritten() || !storage->layout[axis].is_partial();
  });
  if (bucket.storages.empty()) {
    return;
  }
  count(bucket, axis);
  if (!bucket.mesh.one_memory()) {
    const LocalOps local;
    for (MeshStorage* storage : bucket.storages) {
      parts.push_back(storage->shards);
    }
    std::vector<Shards> sums =
        communicator_of(bucket.mesh)
            .all_reduce(bucket.mesh, axis, bucket.cut, parts);
    for (size_t i = 0; i < sums.size(); ++i) {
      bucket.storages[i]->shards = std::move(sums[i]);
    }
  }
  for (MeshStorage* storage : bucket.storages) {
    storage->layout = storage->layout.with(axis, Placement::replicate());
    storage->count_shards();
    ++storage->memory_generation;
  }
}

void reduce_axis(
    int axis,
    c10::ArrayRef<const at::Tensor*> tensors,
    c10::ArrayRef<AxisMask> axes) {
  c10::SmallVector<const MeshStorage*, 8> seen;
  std::vector<Bucket> open;  // of each kind the one that fills up
  for (size_t i = 0; i < tensors.size(); ++i) {
    MeshStorage* storage = MeshStorage::of(*tensors[i]);
    const AxisMask pending = axes[i] & storage->layout.partial_axes();
    if (!(pending >> axis & 1) || storage->is_unwritten() ||
        std::find(seen.begin(), seen.end(), storage) != seen.end()) {
      continue;
    }
    seen.push_back(storage);
    auto bucket =
        std::find_if(open.begin(), open.end(), [&](const Bucket& candidate) {
          return candidate.takes(*storage);
        });
    if (bucket == open.end()) {
      open.push_back(
          {storage->layout.mesh(),
           storage->layout.sharded_axes(),
           storage->dtype,
           {}});
      bucket = open.end() - 1;
    }
    const int64_t num_bytes = storage->shards[0].num_bytes();
    if (!bucket->storages.empty() &&
        bucket->num_bytes + num_bytes > kBucketBytes) {
      reduce(*bucket, axis);
      bucket->storages.clear();
      bucket->num_bytes = 0;
    }
    bucket->storages.push_back(storage);
    bucket->num_bytes += num_bytes;
  }
  for (Bucket& bucket : open) {
    reduce(std::move(bucket), axis);
  }
}

}  // namespace

void reduce_pending(
    c10::ArrayRef<const at::Tensor*> tensors,
    c10::ArrayRef<AxisMask> axes) {
  AxisMask any = 0;
  for (const AxisMask mask : axes) {
    any |= mask;
  }
  for (int axis = 0; any >> axis; ++axis) {
    if (any >> axis & 1) {
      reduce_axis(axis, tensors, axes);
    }
  }
}

void reduce_pending(c10::ArrayRef<const at::Tensor*> tensors) {
  c10::SmallVector<const at::Tensor*, 8> pending;
  c10::SmallVector<AxisMask, 8> axes;
  for (const at::Tensor* tensor : tensors) {
    if (is_global(*tensor) && layout_of(*tensor).has_partial()) {
      pending.push_back(tensor);
      axes.push_back(layout_of(*tensor).partial_axes());
    }
  }
  reduce_pending(pending, axes);
}

void reduce_pending(const at::Tensor& tensor, AxisMask axes) {
  const at::Tensor* one = &tensor;
  reduce_pending(c10::ArrayRef(one), c10::ArrayRef(axes));
}

Shards shards_in(const at::Tensor& tensor, const Layout& to) {
  auto plan_from = [&](const Layout& from) {
    return plan_redistribution(
        from, to, as_span(tensor.sizes()), tensor.itemsize());
  };
  Held now = held(tensor);
  if (now.layout == to) {
    return std::move(now.shards);
  }
  if (now.layout.mesh() != to.mesh()) {
    return run_redistribution(
        plan_from(Layout::replicated(to.mesh())),
        replicate_value(full_value(tensor), to.mesh(), Copies::kElsewhere));
  }
  // Of what only waits for its sums no plan has to be made.
  const AxisMask pending = now.layout.partial_axes() & ~to.partial_axes();
  if (pending != 0 && with_reduced(now.layout, to) == to) {
    reduce_pending(tensor, pending);
    now = held(tensor);
    if (now.layout == to) {
      return std::move(now.shards);
    }
  }
  Redistribution moves = plan_from(now.layout);
  AxisMask reduced = 0;
  for (const Step& step : moves.steps) {
    if (step.kind != Step::Kind::kAllReduce) {
      break;
    }
    reduced |= AxisMask{1} << step.axis;
  }
  if (reduced != 0) {
    reduce_pending(tensor, reduced);
    now = held(tensor);
    moves = plan_from(now.layout);
  }
  return run_redistribution(moves, now.shards);
}

}  // namespace torch_mesh

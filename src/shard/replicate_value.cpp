// replicate_value.cpp: one replica for each memory.

#include "shard/replicate_value.h"

#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full.h>

#include "shard/local_ops.h"

namespace torch_mesh {

Shards on_lanes(const Lanes& lanes, const at::Tensor& value) {
  Shards shards(lanes.num);
  for (const int lane : lanes.mine) {
    shards[lane] = value;
  }
  return shards;
}

Shards replicate_value(
    const at::Tensor& value,
    const Mesh& mesh,
    Copies copies) {
  const Lanes& lanes = mesh.lanes(0);
  Shards replicas(lanes.num);
  for (const int lane : lanes.mine) {
    replicas[lane] = value.to(
        torch_device(mesh.devices()[lanes.first_device[lane]]),
        value.scalar_type(),
        /*non_blocking=*/false,
        /*copy=*/copies == Copies::kAlways);
  }
  return replicas;
}

void own(Shards& shards) {
  for (Shard& shard : shards) {
    shard = shard.local().clone();
  }
}

Shards copies_of(const Shards& shards) {
  Shards copies = shards;
  for (Shard& copy : copies) {
    const at::Tensor& local = copy.local();
    copy = at::empty_strided(local.sizes(), local.strides(), local.options())
               .copy_(local);
  }
  return copies;
}

void fill_with_zeros(const Shards& shards) {
  for (const Shard& shard : shards) {
    shard.local().zero_();
  }
}

at::Tensor no_part(const at::Tensor& like) {
  at::Tensor zeros = at::full({}, -0.0, like.options());
  if (like.dim() > 0) {
    return zeros.expand_as(like);
  }
  zeros.unsafeGetTensorImpl()->set_wrapped_number(
      like.unsafeGetTensorImpl()->is_wrapped_number());
  return zeros;
}

void copy_shards(const Shards& from, const Shards& to) {
  for (size_t lane = 0; lane < to.size(); ++lane) {
    if (to[lane].defined()) {
      to[lane].local().copy_(from[lane].local());
    }
  }
}

}  // namespace torch_mesh

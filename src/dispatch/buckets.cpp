// buckets.cpp: one collective for each mesh axis and bucket.

#include "dispatch/buckets.h"

#include <algorithm>

#include "tensor/global_tensor.h"
#include "trace/counters.h"

namespace torch_mesh {

void reduce_in_buckets(
    c10::ArrayRef<const at::Tensor*> tensors,
    c10::ArrayRef<AxisMask> axes) {
  c10::SmallVector<const MeshStorage*, 8> seen;
  for (int axis = 0; axis < kMaxAxes; ++axis) {
    int64_t bucket = 0;
    const Mesh* mesh = nullptr;
    auto flush = [&] {
      if (bucket > 0 && mesh->axis(axis).size > 1) {
        const int64_t n = mesh->axis(axis).size;
        count_collective(
            Step::Kind::kAllReduce,
            mesh->axis(axis).name,
            2 * bucket * (n - 1) / n);
      }
      bucket = 0;
    };
    seen.clear();
    for (size_t i = 0; i < tensors.size(); ++i) {
      const at::Tensor& tensor = *tensors[i];
      const MeshStorage* storage = MeshStorage::of(tensor);
      if (!(axes[i] >> axis & 1) ||
          !(storage->layout.partial_axes() >> axis & 1) ||
          std::find(seen.begin(), seen.end(), storage) != seen.end()) {
        continue;
      }
      seen.push_back(storage);
      mesh = &storage->layout.mesh();
      int64_t parts = 1;
      for (int a = 0; a < mesh->num_axes(); ++a) {
        parts *= storage->layout[a].is_shard() ? mesh->axis(a).size : 1;
      }
      const int64_t num_bytes = static_cast<int64_t>(storage->nbytes()) / parts;
      if (bucket > 0 && bucket + num_bytes > kBucketBytes) {
        flush();
      }
      bucket += num_bytes;
      if (bucket == 0) {
        bucket = 1;
      }
    }
    flush();
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    reduce_storage(*tensors[i], axes[i]);
  }
}

}  // namespace torch_mesh

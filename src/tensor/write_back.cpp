// write_back.cpp: element by element where the geometry says which.

#include "tensor/write_back.h"

#include "comm/run_steps.h"
#include "shard/span.h"
#include "tensor/base_value.h"
#include "tensor/chain.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

// Writes what one device has of the window.
void write_on(
    int device,
    const MeshStorage& storage,
    const Shard& shard,
    const Chain& taken,
    at::Tensor value) {
  const at::Tensor& local = shard.local();
  std::vector<int64_t> sizes = value.sizes().vec();
  std::vector<int64_t> strides(sizes.size(), 0);
  int64_t offset = shard.storage_offset();
  for (size_t d = 0; d < taken.size(); ++d) {
    const auto dim = static_cast<int64_t>(d);
    const Range part =
        shard_range(storage.layout, as_span(storage.base_sizes), dim, device);
    const Range mine = taken[d].within(part);
    if (mine.length == 0) {
      return;
    }
    const int64_t first = taken[d].start + mine.begin * taken[d].step;
    offset += (first - part.begin) * shard.stride(dim);
    if (const int w = taken[d].window_dim; w >= 0) {
      value = value.narrow(w, mine.begin, mine.length);
      sizes[w] = mine.length;
      strides[w] = taken[d].step * shard.stride(dim);
    }
  }
  local.as_strided(sizes, strides, offset).copy_(value);
}

void write_whole_base(
    const at::Tensor& window,
    MeshStorage& storage,
    const at::Tensor& value) {
  const Layout replicated = Layout::replicated(storage.layout.mesh());
  const at::Tensor full = full_base(storage);
  copy_once(window_on(full, window, window.scalar_type()), value);
  const Shards parts = run_redistribution(
      redistribution_of(
          replicated, storage.layout, storage.base_sizes, storage.dtype),
      Shards(replicated.lanes().num, full));
  for (size_t lane = 0; lane < parts.size(); ++lane) {
    storage.shards[lane].local().copy_(parts[lane].local());
  }
}

}  // namespace

void write_back(const at::Tensor& window, MeshStorage& storage) {
  const GlobalMeta& meta = meta_of(window);
  const Layout replicated = Layout::replicated(storage.layout.mesh());
  const Shards values = run_redistribution(
      redistribution_of(
          meta.layout, replicated, window.sizes(), window.scalar_type()),
      meta.shards);
  const std::optional<Chain> taken =
      !storage.layout.has_partial() && has_ranges(storage.layout) &&
              window.scalar_type() == storage.dtype
          ? chain_of(
                as_span(storage.base_sizes),
                as_span(storage.base_strides),
                as_span(window.sizes()),
                as_span(window.strides()),
                window.storage_offset())
          : std::nullopt;
  if (!taken) {
    write_whole_base(window, storage, values[0].local());
    return;
  }
  if (window.numel() == 0) {
    return;
  }
  const Lanes& lanes = storage.layout.lanes();
  for (int lane = 0; lane < lanes.num; ++lane) {
    const int device = lanes.first_device[lane];
    write_on(
        device,
        storage,
        storage.shards[lane],
        *taken,
        values[replicated.lanes().lane_of_device[device]].local());
  }
}

}  // namespace torch_mesh

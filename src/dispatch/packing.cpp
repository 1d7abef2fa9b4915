// packing.cpp: what local results do not show of the whole.

#include "dispatch/packing.h"

#include "tensor/global_tensor.h"

namespace torch_mesh {

std::vector<int64_t> strides_of_whole(
    const std::vector<int64_t>& sizes,
    const Sizes& known,
    const at::Tensor& first) {
  if (!known.empty()) {
    const std::vector<int64_t> local = strides_in_order_of(
        {first.sizes().data(), first.sizes().size()},
        {known.data(), known.size()});
    bool agrees = true;
    for (int64_t d = 0; d < first.dim(); ++d) {
      agrees &= first.size(d) == 1 || first.stride(d) == local[d];
    }
    if (agrees) {
      return {known.begin(), known.end()};
    }
  }
  return first.is_contiguous()
             ? contiguous_strides(sizes)
             : strides_in_order_of(
                   sizes, {first.strides().data(), first.strides().size()});
}

void make_dense(Shards& results, bool side_by_side) {
  for (at::Tensor& result : results) {
    if (!result.is_non_overlapping_and_dense() ||
        (result.storage_offset() != 0 && !side_by_side)) {
      result = result.clone();
    }
  }
}

bool lies_in(const at::Tensor& result, const Shards& shards) {
  for (const at::Tensor& shard : shards) {
    if (shard.storage().is_alias_of(result.storage())) {
      return true;
    }
  }
  return false;
}

bool repeats_nothing(const at::Tensor& result) {
  if (result.numel() == 0) {
    return false;
  }
  for (int64_t d = 0; d < result.dim(); ++d) {
    if (result.size(d) > 1 && result.stride(d) == 0) {
      return false;
    }
  }
  return true;
}

at::Tensor make_with_gaps(const Layout& layout, Shards results) {
  const at::Tensor first = results[0];
  const int64_t size =
      static_cast<int64_t>(first.storage().nbytes() / first.itemsize());
  Shards flat;
  for (const at::Tensor& result : results) {
    flat.push_back(result.as_strided({size}, {1}, 0));
  }
  const at::Tensor base =
      make_global(layout, {size}, {1}, first.scalar_type(), std::move(flat));
  return make_view(
      base.storage(),
      layout,
      first.sizes(),
      first.strides(),
      first.storage_offset(),
      first.scalar_type(),
      std::move(results),
      /*is_write_back=*/false,
      base.is_inference());
}

void take_size(
    const at::Tensor& destination,
    const Shards& written,
    const Mesh& mesh) {
  Shards shards;
  for (const at::Tensor& shard : written) {
    shards.push_back(shard.clone());
  }
  const at::Tensor first = shards[0];
  become(
      destination,
      make_global(
          Layout::replicated(mesh),
          first.sizes(),
          first.strides(),
          first.scalar_type(),
          std::move(shards)));
}

}  // namespace torch_mesh

// window.cpp: a geometry over a storage as slices and selects of its base.

#include "tensor/window.h"

#include <algorithm>

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>

#include "plan/boxes.h"
#include "plan/chain.h"
#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "shard/span.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// Whether the window is the base itself. Strides of dims of one element say
// nothing.
bool is_base(
    const MeshStorage& storage,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset) {
  bool same = offset == 0 && sizes == c10::IntArrayRef(storage.base_sizes());
  for (size_t d = 0; same && d < sizes.size(); ++d) {
    same = sizes[d] <= 1 || strides[d] == storage.base_strides()[d];
  }
  return same;
}

// Whether the window takes all of every dim that is cut.
bool takes_cut_dims_whole(const MeshStorage& storage, const Chain& taken) {
  return std::ranges::all_of(
      storage.layout().placements(), [&](const Placement& placement) {
        if (!placement.is_shard()) {
          return true;
        }
        const Taken& dim = taken[placement.dim];
        return dim.window_dim >= 0 && dim.start == 0 && dim.step == 1 &&
               dim.length == storage.base_sizes()[placement.dim];
      });
}

// The layout of such a window.
Layout layout_of_whole_dims(const MeshStorage& storage, const Chain& taken) {
  std::vector<Placement> placements = storage.layout().placements();
  for (Placement& placement : placements) {
    if (placement.is_shard()) {
      placement.dim = taken[placement.dim].window_dim;
    }
  }
  return Layout(storage.layout().mesh(), placements);
}

at::Tensor local_window(
    const at::Tensor& shard,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    const Chain& taken) {
  std::vector<int64_t> local_sizes = sizes.vec();
  std::vector<int64_t> local_strides = strides.vec();
  int64_t offset = shard.storage_offset();
  for (size_t d = 0; d < taken.size(); ++d) {
    offset += taken[d].start * shard.stride(d);
    if (taken[d].window_dim >= 0) {
      const bool whole = taken[d].start == 0 && taken[d].step == 1;
      local_sizes[taken[d].window_dim] =
          whole ? std::min(taken[d].length, shard.size(d)) : taken[d].length;
      local_strides[taken[d].window_dim] = taken[d].step * shard.stride(d);
    }
  }
  return shard.as_strided(local_sizes, local_strides, offset);
}

// Windows on raw bytes, or of another dtype: replicated shards have the very
// addresses of a plain tensor.
at::Tensor raw_window(
    const at::Tensor& shard,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    c10::ScalarType dtype) {
  const int64_t origin = shard.storage_offset() *
                         static_cast<int64_t>(shard.itemsize()) /
                         static_cast<int64_t>(c10::elementSize(dtype));
  return at::empty({0}, shard.options().dtype(dtype))
      .set_(shard.storage(), origin + offset, sizes, strides);
}

}  // namespace

at::Tensor window_of_storage(
    const c10::Storage& storage,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    c10::ScalarType dtype,
    bool is_inference) {
  TORCH_CHECK(
      storage.device_type() == c10::DeviceType::PrivateUse1,
      "set_: the storage is on another device than the mesh.\n"
      "Hint: bring it over with .to(\"mesh\"). [set-device]");
  TORCH_CHECK(
      sizes.size() == strides.size(),
      "as_strided: there are ",
      sizes.size(),
      " sizes and ",
      strides.size(),
      " strides, and their numbers must match");
  auto has_negative = [](c10::IntArrayRef values) {
    return std::any_of(
        values.begin(), values.end(), [](int64_t v) { return v < 0; });
  };
  TORCH_CHECK(
      !has_negative(sizes) && !has_negative(strides) && offset >= 0,
      "as_strided: sizes, strides and offset must not be negative, got sizes ",
      sizes,
      ", strides ",
      strides,
      ", offset ",
      offset);
  auto& state = *static_cast<MeshStorage*>(storage.unsafeGetStorageImpl());
  const size_t needed = at::detail::computeStorageNbytes(
      sizes, strides, c10::elementSize(dtype), offset);
  TORCH_CHECK(
      needed <= state.nbytes(),
      "setStorage: sizes ",
      sizes,
      ", strides ",
      strides,
      ", storage offset ",
      offset,
      ", and itemsize ",
      c10::elementSize(dtype),
      " requiring a storage size of ",
      needed,
      " are out of bounds for storage of size ",
      state.nbytes());
  read_storage(state);
  // A reader on another thread may be about to reduce a pending sum.
  const std::lock_guard lock(state.mutex);
  auto alias = [&](const Layout& layout, Shards shards) {
    Origin origin = origin_of(state);
    if (state.broken()) {
      // Of a generation before: its first read looks at the storage.
      --origin.memory_generation;
    }
    return make_view(
        storage,
        layout,
        sizes,
        strides,
        offset,
        dtype,
        std::move(shards),
        origin,
        /*is_write_back=*/false,
        is_inference);
  };
  Shards shards;
  if (state.layout().sharded_axes() == 0) {
    shards = state.shards();
    for (Shard& shard : shards) {
      shard = raw_window(shard.local(), sizes, strides, offset, dtype);
    }
    return alias(state.layout(), std::move(shards));
  }
  if (dtype == state.dtype() && is_base(state, sizes, strides, offset)) {
    return alias(state.layout(), state.shards());
  }
  const std::optional<Chain> taken = dtype == state.dtype()
                                         ? chain_of(
                                               as_span(state.base_sizes()),
                                               as_span(state.base_strides()),
                                               as_span(sizes),
                                               as_span(strides),
                                               offset)
                                         : std::nullopt;
  if (taken && takes_cut_dims_whole(state, *taken)) {
    shards = state.shards();
    for (Shard& shard : shards) {
      shard = local_window(shard.local(), sizes, strides, *taken);
    }
    return alias(layout_of_whole_dims(state, *taken), std::move(shards));
  }
  const bool has_boxes =
      taken && has_ranges(state.layout()) && !state.layout().has_partial();
  return make_write_back(
      storage,
      sizes,
      strides,
      offset,
      dtype,
      has_boxes ? layout_of_window(state.layout(), *taken, as_span(sizes))
                : Layout::replicated(state.layout().mesh()),
      is_inference);
}

bool is_taken_by_boxes(const at::Tensor& tensor) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  const std::lock_guard lock(storage.mutex);
  return tensor.scalar_type() == storage.dtype() &&
         has_ranges(storage.layout()) && !storage.layout().has_partial() &&
         chain_of(
             as_span(storage.base_sizes()),
             as_span(storage.base_strides()),
             as_span(tensor.sizes()),
             as_span(tensor.strides()),
             tensor.storage_offset())
             .has_value();
}

bool copy_storage(const at::Tensor& to, const at::Tensor& from) {
  auto is_all_bytes = [](const at::Tensor& tensor, const MeshStorage& storage) {
    return tensor.scalar_type() == c10::kByte && tensor.storage_offset() == 0 &&
           tensor.dim() == 1 &&
           tensor.numel() == static_cast<int64_t>(storage.nbytes());
  };
  MeshStorage& target = *MeshStorage::of(to);
  MeshStorage& source = *MeshStorage::of(from);
  const bool is_raw =
      target.dtype() == c10::kByte &&
      target.base_sizes() == Sizes{static_cast<int64_t>(target.nbytes())};
  if (&target == &source || !is_raw || source.dtype() == c10::kByte ||
      target.nbytes() != source.nbytes() || !is_all_bytes(to, target) ||
      !is_all_bytes(from, source)) {
    return false;
  }
  read_storage(source);
  const LocalOps local;
  Shards copies;
  const std::scoped_lock lock(target.mutex, source.mutex);
  copies = copies_of(source.shards());
  target.become_copy(source, copies);
  // The window that wrote is on raw bytes no longer.
  meta_of(to).is_write_back = true;
  return true;
}

void check_can_grow(const at::Tensor& tensor) {
  TORCH_MESH_CHECK_SUPPORTED(
      tensor.numel() == 0 ||
          (tensor.storage().use_count() == 1 && tensor.storage_offset() == 0),
      "resize-shared",
      CurrentOp::name(),
      ": the storage must grow, and other tensors share it.\n"
      "Hint: make a new tensor and copy_ into it.");
}

void resize_window(const at::Tensor& tensor, c10::IntArrayRef sizes) {
  for (int64_t size : sizes) {
    TORCH_CHECK(
        size >= 0,
        "resize_: sizes must not be negative, got ",
        size,
        " in ",
        sizes);
  }
  const std::vector<int64_t> strides = contiguous_strides(sizes);
  const size_t needed = at::detail::computeStorageNbytes(
      sizes, strides, tensor.itemsize(), tensor.storage_offset());
  if (needed <= MeshStorage::of(tensor)->nbytes()) {
    become(
        tensor,
        window_of_storage(
            tensor.storage(),
            sizes,
            strides,
            tensor.storage_offset(),
            tensor.scalar_type()));
    return;
  }
  if ((!is_unwritten(tensor) || MeshStorage::of(tensor)->state().is_blank()) &&
      tensor.numel() > 0) {
    check_can_grow(tensor);
    const Layout layout = Layout::replicated(layout_of(tensor).mesh());
    const at::Tensor value = full_value(tensor);
    Shards shards = replicate_value(value, layout.mesh(), Copies::kAlways);
    for (Shard& shard : shards) {
      shard.local().resize_(sizes);
    }
    become(
        tensor,
        make_global(
            layout, sizes, strides, value.scalar_type(), std::move(shards)));
    return;
  }
  become(
      tensor,
      make_unwritten(
          Layout::replicated(layout_of(tensor).mesh()),
          sizes,
          strides,
          tensor.scalar_type()));
}

}  // namespace torch_mesh

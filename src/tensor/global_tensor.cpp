// global_tensor.cpp: windows on shared storages, kept up to date.

#include "tensor/global_tensor.h"

#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/InferenceMode.h>

#include <torch_mesh/error.h>
#include <torch_mesh/redistribute.h>

#include "comm/host_read.h"
#include "comm/run_steps.h"
#include "job/job.h"
#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "tensor/base_value.h"
#include "tensor/lazy_bits.h"
#include "tensor/pending_sums.h"
#include "tensor/reduction.h"
#include "tensor/window_value.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// No tensor ever reaches it: a window that must be taken before its first use.
constexpr uint32_t kNeverTaken = 0xffffffff;

// Views take after their base, not after the mode in which they are made:
// `is_inference` says which.
at::Tensor new_tensor(
    c10::Storage storage,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    c10::ScalarType dtype,
    c10::intrusive_ptr<GlobalMeta> meta,
    bool is_inference = c10::InferenceMode::is_enabled()) {
  constexpr auto kBackend = c10::BackendComponent::PrivateUse1Bit;
  c10::DispatchKeySet keys =
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1) |
      c10::getAutocastRelatedKeySetFromBackend(kBackend);
  if (!is_inference) {
    keys = keys | c10::getAutogradRelatedKeySetFromBackend(kBackend);
  }
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW,
      std::move(storage),
      keys,
      c10::scalarTypeToTypeMeta(dtype));
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(sizes, strides, offset);
  impl->set_backend_meta(std::move(meta));
  return tensor;
}

void materialise(MeshStorage& storage) {
  Layout layout = storage.layout();
  if (layout.mesh().num_axes() == 0) {
    layout = Layout::replicated(current_mesh());
  }
  layout = layout.with_sums_reduced();
  Shards shards = empty_shards(storage, layout);
  if (storage.state().is_blank() || storage.dtype() == at::kByte) {
    fill_with_zeros(shards);
  }
  storage.get_memory(layout, std::move(shards));
}

// Where shards of a storage begin, as in an Origin.
Sizes offsets_of(const Shards& shards) {
  Sizes offsets(shards.size(), 0);
  for (size_t lane = 0; lane < shards.size(); ++lane) {
    if (shards[lane].defined()) {
      offsets[lane] = shards[lane].storage_offset();
    }
  }
  return offsets;
}

// Whether the storage has got another layout since the tensor was made or
// taken.
bool is_of_another_layout(const GlobalMeta& meta, const MeshStorage& storage) {
  return meta.layout_generation != storage.state().layout_generation();
}

// An alias of a part of its storage is none any more once that has another
// layout.
bool is_write_back(const at::Tensor& tensor, const MeshStorage& storage) {
  const GlobalMeta& meta = meta_of(tensor);
  return meta.is_write_back ||
         (is_of_another_layout(meta, storage) && !is_whole(tensor));
}

// The layout in which a tensor stands whenever it is taken: a function of its
// own and of its storage's. Nothing is taken for it (law 14).
Layout layout_when_taken(const at::Tensor& tensor, const MeshStorage& storage) {
  const GlobalMeta& meta = meta_of(tensor);
  const Mesh& mesh = storage.layout().mesh();
  if (is_write_back(tensor, storage)) {
    return meta.layout.mesh() == mesh ? meta.layout.with_sums_reduced()
                                      : Layout::replicated(mesh);
  }
  return meta.shards.empty() || is_of_another_layout(meta, storage)
             ? storage.layout()
             : meta.layout.with_sums_reduced(~storage.layout().partial_axes());
}

// Local views of the storage's present shards.
Shards aliases_of(const at::Tensor& tensor, const MeshStorage& storage) {
  Shards shards = storage.shards();
  if (!is_whole(tensor)) {  // torch.jit.load's own
    for (Shard& shard : shards) {
      shard = window_on(shard.local(), tensor, tensor.scalar_type());
    }
  }
  return shards;
}

// The same where they lay in older shards of the same layout.
void rebase(GlobalMeta& meta, const Shards& shards) {
  for (size_t lane = 0; lane < meta.shards.size(); ++lane) {
    Shard& view = meta.shards[lane];
    const Shard& base = shards[lane];
    const int64_t offset = meta.offsets.empty() ? 0 : meta.offsets[lane];
    if (!base.defined() ||
        (view.shares_memory_with(base) && base.storage_offset() == offset)) {
      continue;
    }
    const int64_t shift = base.storage_offset() - offset;
    view = at::empty({0}, view.local().options())
               .set_(
                   base.local().storage(),
                   view.storage_offset() +
                       shift * base.itemsize() / view.itemsize(),
                   view.sizes(),
                   view.strides());
  }
}

// Whether the tensor's shards are those of its storage's present value.
bool is_current(const GlobalMeta& meta, const MeshStorage& storage) {
  return meta.memory_generation.load(std::memory_order_acquire) ==
             storage.state().memory_generation() &&
         (!meta.is_write_back ||
          meta.value_generation.load(std::memory_order_acquire) ==
              storage.state().value_generation());
}

// Whether no reader changes the tensor's shards any more, and they are up to
// date. A copy of a pending sum is taken again once that is formed. The layouts
// come first: once they have no sum, the generations are those of after it.
bool is_settled(const GlobalMeta& meta, const MeshStorage& storage) {
  return !meta.layout.has_partial() &&
         !(meta.is_write_back && storage.layout().has_partial()) &&
         is_current(meta, storage);
}

// Lets readers without a lock see `layout` behind the shards that it is of:
// once it has no pending sum they take no lock.
void set_layout(GlobalMeta& meta, const Layout& layout) {
  std::atomic_thread_fence(std::memory_order_release);
  if (meta.layout != layout) {
    meta.layout = layout;
  }
}

// Brings an alias up to date; of a write-back window it says that it is one,
// and take_copy() does the rest. Requires the storage's lock, and memory. Gives
// the shards that it had, to be freed behind the lock: memory of NumPy needs
// Python's lock for that.
Shards refresh_locked(const at::Tensor& tensor, const MeshStorage& storage) {
  GlobalMeta& meta = meta_of(tensor);
  if (is_write_back(tensor, storage)) {
    meta.is_write_back = true;
    return {};
  }
  const Layout layout = layout_when_taken(tensor, storage);
  Shards before = meta.shards;
  if (meta.shards.empty() || is_of_another_layout(meta, storage)) {
    meta.shards = aliases_of(tensor, storage);
  } else {
    rebase(meta, storage.shards());
  }
  meta.offsets = offsets_of(storage.shards());
  meta.layout_generation = storage.state().layout_generation();
  set_layout(meta, layout);
  meta.memory_generation.store(
      storage.state().memory_generation(), std::memory_order_release);
  return before;
}

// Takes the value of a write-back window. No lock is held while shards move:
// if the storage was written meanwhile, it is taken again.
void take_copy(const at::Tensor& tensor, MeshStorage& storage) {
  GlobalMeta& meta = meta_of(tensor);
  for (bool is_taken = false; !is_taken;) {
    std::unique_lock lock(storage.mutex);
    const BaseValue base = BaseValue::of_locked(storage);
    const Layout layout = layout_when_taken(tensor, storage);
    lock.unlock();
    Shards shards = take_window(tensor, base, layout);
    const std::lock_guard relock(storage.mutex);
    is_taken = is_current(meta, storage);
    if (!is_taken && base.is_of(storage)) {
      std::swap(meta.shards, shards);
      meta.layout_generation = base.layout_generation;
      set_layout(meta, layout);
      meta.value_generation.store(
          base.value_generation, std::memory_order_release);
      meta.memory_generation.store(
          base.memory_generation, std::memory_order_release);
      is_taken = true;
    }
  }
}

// Makes the tensor's shards those of its storage's present value.
void refresh(const at::Tensor& tensor) {
  GlobalMeta& meta = meta_of(tensor);
  MeshStorage& storage = *MeshStorage::of(tensor);
  const LocalOps local;
  Shards before;
  {
    const std::lock_guard lock(storage.mutex);
    if (storage.broken()) [[unlikely]] {
      raise_broken(*storage.broken());
    }
    if (is_current(meta, storage)) {
      return;
    }
    if (storage.is_unwritten()) {
      materialise(storage);
    }
    before = refresh_locked(tensor, storage);
  }
  if (meta.is_write_back) {
    take_copy(tensor, storage);
  }
}

}  // namespace

bool is_global(const at::Tensor& tensor) {
  return tensor.defined() &&
         tensor.unsafeGetTensorImpl()->key_set().has_backend(
             c10::BackendComponent::PrivateUse1Bit) &&
         tensor.unsafeGetTensorImpl()->get_backend_meta() != nullptr;
}

Layout layout_of(const at::Tensor& tensor) {
  if (!tensor.unsafeGetTensorImpl()->get_backend_meta()) [[unlikely]] {
    detail::raise(
        ErrorKind::kValue,
        "not-global",
        "layout: the tensor is ",
        tensor.defined() ? "on " + tensor.device().str() : "undefined",
        ", not on the mesh.\nHint: use distribute.");
  }
  const GlobalMeta& meta = meta_of(tensor);
  MeshStorage& storage = *MeshStorage::of(tensor);
  finish_begun(storage);
  if (!storage.is_unwritten() && is_current(meta, storage)) [[likely]] {
    return meta.layout;
  }
  const std::lock_guard lock(storage.mutex);
  return storage.is_unwritten() ? storage.layout()
         : storage.broken()     ? meta.layout
                                : layout_when_taken(tensor, storage);
}

at::Tensor make_global(
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    c10::ScalarType dtype,
    Shards shards) {
  resolve_bits(shards);
  auto storage =
      c10::make_intrusive<MeshStorage>(layout, sizes, strides, dtype);
  auto meta = c10::make_intrusive<GlobalMeta>();
  meta->layout = layout;
  meta->shards = shards;
  meta->offsets = offsets_of(shards);
  storage->get_memory(layout, std::move(shards));
  return new_tensor(
      c10::Storage(std::move(storage)),
      sizes,
      strides,
      /*offset=*/0,
      dtype,
      std::move(meta));
}

at::Tensor make_unwritten(
    const Layout& wish,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    c10::ScalarType dtype) {
  auto meta = c10::make_intrusive<GlobalMeta>();
  meta->layout = wish;
  meta->memory_generation = kNeverTaken;
  return new_tensor(
      c10::Storage(
          c10::make_intrusive<MeshStorage>(wish, sizes, strides, dtype)),
      sizes,
      strides,
      /*offset=*/0,
      dtype,
      std::move(meta));
}

at::Tensor make_view(
    const c10::Storage& storage,
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    c10::ScalarType dtype,
    Shards shards,
    const Origin& origin,
    bool is_write_back,
    bool is_inference) {
  const auto& state =
      *static_cast<MeshStorage*>(storage.unsafeGetStorageImpl());
  const LazyBits bits = take_bits_off(shards);
  auto meta = c10::make_intrusive<GlobalMeta>();
  meta->layout = layout;
  meta->shards = std::move(shards);
  meta->is_write_back = is_write_back;
  meta->memory_generation = origin.memory_generation;
  meta->layout_generation = origin.layout_generation;
  meta->offsets = origin.offsets;
  meta->value_generation = state.state().value_generation();
  at::Tensor view = new_tensor(
      storage, sizes, strides, offset, dtype, std::move(meta), is_inference);
  bits.put_on(view);
  return view;
}

Origin GlobalMeta::origin() const {
  return {memory_generation.load(), layout_generation, offsets};
}

Origin origin_of(const MeshStorage& storage) {
  return {storage.state().memory_generation(),
          storage.state().layout_generation(),
          offsets_of(storage.shards())};
}

at::Tensor make_write_back(
    const c10::Storage& storage,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    c10::ScalarType dtype,
    const Layout& layout,
    bool is_inference) {
  auto meta = c10::make_intrusive<GlobalMeta>();
  meta->layout = layout;
  meta->is_write_back = true;
  meta->memory_generation = kNeverTaken;
  return new_tensor(
      storage, sizes, strides, offset, dtype, std::move(meta), is_inference);
}

at::Tensor make_alias(const at::Tensor& tensor) {
  return at::Tensor(tensor.unsafeGetTensorImpl()->shallow_copy_and_detach(
      c10::VariableVersion(0), /*allow_tensor_metadata_change=*/false));
}

void become(const at::Tensor& tensor, const at::Tensor& source) {
  c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  c10::TensorImpl* from = source.unsafeGetTensorImpl();
  impl->set_storage_and_dtype(source.storage(), from->dtype());
  impl->set_sizes_and_strides(
      source.sizes(), source.strides(), source.storage_offset());
  impl->set_backend_meta(from->get_backend_meta_intrusive_ptr());
}

const Shards* settled_shards(const at::Tensor& tensor) {
  const GlobalMeta& meta = meta_of(tensor);
  return is_settled(meta, *MeshStorage::of(tensor)) &&
                 !LazyBits::of(tensor).any()
             ? &meta.shards
             : nullptr;
}

Held held_memory(const at::Tensor& tensor) {
  GlobalMeta& meta = meta_of(tensor);
  MeshStorage& storage = *MeshStorage::of(tensor);
  if (is_settled(meta, storage)) [[likely]] {
    return {meta.layout, meta.shards, meta.origin()};
  }
  finish_begun(storage);
  for (;;) {
    refresh(tensor);
    const std::lock_guard lock(storage.mutex);
    if (is_current(meta, storage)) {
      return {meta.layout, meta.shards, meta.origin()};
    }
  }
}

Held held(const at::Tensor& tensor) {
  Held now = held_memory(tensor);
  now.shards = with_bits_of(tensor, std::move(now.shards));
  return now;
}

Shards read(const at::Tensor& tensor) { return held(tensor).shards; }

void read_storage(MeshStorage& storage) {
  std::lock_guard lock(storage.mutex);
  if (storage.is_unwritten()) {
    const LocalOps local;
    materialise(storage);
  }
}

void own_memory(MeshStorage& storage) {
  Shards shards;
  const LocalOps local;
  const auto lock = lock_for_write(storage);
  if (!storage.state().is_borrowed()) {
    return;
  }
  shards = copies_of(storage.shards());
  storage.replace_memory(storage.layout(), shards);
}

Shards begin_write(const at::Tensor& tensor) {
  if (!settled_shards(tensor)) {
    MeshStorage& storage = *MeshStorage::of(tensor);
    finish_reduction(storage);
    if (!is_current(meta_of(tensor), storage)) {
      refresh(tensor);
    }
  }
  if (MeshStorage::of(tensor)->state().is_borrowed()) [[unlikely]] {
    own_memory(*MeshStorage::of(tensor));
    read(tensor);
  }
  return with_bits_of(tensor, meta_of(tensor).shards);
}

Shards begin_overwrite(const at::Tensor& tensor) {
  GlobalMeta& meta = meta_of(tensor);
  MeshStorage& storage = *MeshStorage::of(tensor);
  if (!meta.is_write_back || is_current(meta, storage) ||
      storage.is_unwritten() || storage.state().is_borrowed() ||
      storage.broken()) {
    return begin_write(tensor);
  }
  const std::lock_guard lock(storage.mutex);
  meta.layout = layout_when_taken(tensor, storage);
  meta.layout_generation = storage.state().layout_generation();
  meta.shards = empty_window(tensor, meta.layout);
  return with_bits_of(tensor, meta.shards);
}

void end_write(const at::Tensor& tensor) {
  GlobalMeta& meta = meta_of(tensor);
  MeshStorage& storage = *MeshStorage::of(tensor);
  if (meta.is_write_back) {
    const LocalOps local;
    BaseValue written;
    try {
      written = write_window(tensor, storage, meta.layout, meta.shards);
    } catch (...) {
      // The window has its new value, and the storage some of it or none.
      meta.memory_generation = kNeverTaken;
      mark_broken(tensor, text_of_this_error());
      throw;
    }
    // It stands for what the storage has, also where it was not taken of it.
    meta.value_generation.store(
        written.value_generation, std::memory_order_release);
    meta.memory_generation.store(
        written.memory_generation, std::memory_order_release);
    return;
  }
  storage.write();
}

bool is_unwritten(const at::Tensor& tensor) {
  return MeshStorage::of(tensor)->is_unwritten();
}

void adopt_layout(const at::Tensor& tensor, const Layout& layout) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  GlobalMeta& meta = meta_of(tensor);
  const LocalOps local;
  std::lock_guard lock(storage.mutex);
  storage.get_memory(layout, empty_shards(storage, layout));
  meta.layout = layout;
  meta.shards = storage.shards();
  meta.memory_generation.store(
      storage.state().memory_generation(), std::memory_order_release);
}

bool is_blank(const at::Tensor& tensor) {
  return MeshStorage::of(tensor)->state().is_blank() && is_whole(tensor);
}

bool leave_blank(const at::Tensor& tensor) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  std::lock_guard lock(storage.mutex);
  if (!storage.is_unwritten() || storage.state().is_placed() ||
      !is_whole(tensor)) {
    return false;
  }
  storage.leave_blank();
  return true;
}

void settle_blank(const at::Tensor& tensor, const Layout& layout) {
  const LocalOps local;
  adopt_layout(tensor, layout);
  fill_with_zeros(MeshStorage::of(tensor)->shards());
}

void write_value(const at::Tensor& tensor, const at::Tensor& value) {
  const LocalOps local;
  const Shards shards = begin_write(tensor);
  const Layout layout = layout_of(tensor);
  const Layout replicated = Layout::replicated(layout.mesh());
  const Shards parts = run_redistribution(
      *redistribution_of(
          replicated, layout, tensor.sizes(), tensor.scalar_type()),
      on_lanes(replicated.lanes(), value));
  for (const int lane : layout.lanes().mine) {
    copy_once(shards[lane].local(), parts[lane].local());
  }
  end_write(tensor);
}

at::Tensor full_value(const at::Tensor& tensor) {
  const LocalOps local;
  const Shards* settled = settled_shards(tensor);
  if (settled && meta_of(tensor).layout.is_replicated()) {
    return settled->any().local();
  }
  const Mesh mesh = layout_of(tensor).mesh();
  const at::Tensor value =
      shards_in(tensor, Layout::replicated(mesh)).any().local();
  // Shards of one element along a dim do not show where the dim lies.
  return tensor.is_non_overlapping_and_dense()
             ? in_order(value, tensor.strides())
             : value;
}

at::Tensor host_value(const at::Tensor& tensor) {
  const at::Tensor value = full_value(tensor);
  if (!current_job()) [[likely]] {
    return value;
  }
  const LocalOps local;
  return agreed(layout_of(tensor).mesh(), value);
}

}  // namespace torch_mesh

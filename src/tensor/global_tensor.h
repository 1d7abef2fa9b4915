// global_tensor.h: a global tensor: metadata as plain torch would give it, and
// for each lane the local view of its storage's shards.

#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/TensorImpl.h>

#include <torch_mesh/tensor.h>

#include "shard/shard.h"
#include "tensor/storage.h"

namespace torch_mesh {

// Of which shards of its storage the shards of a tensor were taken. What was
// read before a sum was formed is of older ones than the storage has by now.
struct Origin {
  uint32_t memory_generation;  // of the storage
  uint32_t layout_generation;
  Sizes offsets;  // where its shards began; empty stands for zeros
};

// What is ours in a global tensor. A tensor and its detach() share one.
//
// A tensor is one of two kinds of window on its storage:
//   alias       `shards` are views of the storage's shards; writes go through.
//   write-back  no local view can express it (a select on a sharded dim, an
//               uneven reshape); `shards` are a copy of the value, taken again
//               when the storage was written, and a write to it is written
//               back into the storage (law 3).
//
// Lazy conjugates and negatives are bits of the global tensor alone: `shards`
// hold memory as it lies. `held` and `begin_write` give shards with those bits.
struct GlobalMeta final : c10::BackendMeta {
  Layout layout;
  Shards shards;
  Sizes offsets;  // as of Origin, which names the generations, too
  std::atomic<uint32_t> memory_generation{0};
  uint32_t layout_generation = 0;
  std::atomic<uint32_t> value_generation{0};  // write-back only
  bool is_write_back = false;

  Origin origin() const;
};

inline GlobalMeta& meta_of(const at::Tensor& tensor) {
  return *static_cast<GlobalMeta*>(
      tensor.unsafeGetTensorImpl()->get_backend_meta());
}

// A new tensor that owns `shards`, with a storage of its own.
at::Tensor make_global(
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    c10::ScalarType dtype,
    Shards shards);

// Memory that nobody has written (law 6). `wish`: the layout to take if the
// first write has none of its own.
at::Tensor make_unwritten(
    const Layout& wish,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    c10::ScalarType dtype);

// A window on a storage. `shards` are views of its shards (alias), or a copy of
// the value (write-back). Their lazy bits become the window's.
//   origin         of the shards: others may have formed a sum since
//   is_inference   what the base is; a view is no other, whatever the mode
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
    bool is_inference = c10::InferenceMode::is_enabled());

// Of the shards that the storage has now. The caller holds its lock.
Origin origin_of(const MeshStorage& storage);

// A write-back window at this place of the storage; taken, in `layout`, when it
// is read.
at::Tensor make_write_back(
    const c10::Storage& storage,
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    int64_t offset,
    c10::ScalarType dtype,
    const Layout& layout,
    bool is_inference = c10::InferenceMode::is_enabled());

// Another tensor object for the same window, as detach() gives.
at::Tensor make_alias(const at::Tensor& tensor);

// Changes the layout of the storage of a tensor that is all of it, for all
// who share it: what cannot stay an alias of the new shards becomes a
// write-back window. False, with nothing done, if the tensor is a part of its
// storage. In change_layout.cpp.
bool change_layout(const at::Tensor& tensor, const Layout& layout);

// Makes `tensor` the same window as `source`: sizes, strides, offset, storage.
void become(const at::Tensor& tensor, const at::Tensor& source);

// What a tensor holds at one moment: layout and shards that belong together
// whatever other readers do (one may reduce a pending sum at any time).
struct Held {
  Layout layout;
  Shards shards;  // for reading, up to date: one for each lane of `layout`
  Origin origin;
};
// Throws if the storage is broken. Threads: readers may race.
Held held(const at::Tensor& tensor);
// The shards alone.
Shards read(const at::Tensor& tensor);
// The shards themselves if no reader will change them any more: they are up to
// date, no sum is pending, and the tensor has no lazy bits. Else nullptr.
const Shards* settled_shards(const at::Tensor& tensor);
// As `held` without lazy bits, and how to give them to shards.
Held held_memory(const at::Tensor& tensor);
Shards with_bits_of(const at::Tensor& tensor, Shards shards);

// Makes sure that the storage itself has shards.
void read_storage(MeshStorage& storage);

// The local tensors for writing in place; nobody else's memory. Call `written`
// afterwards. Unwritten memory must be materialised or overwritten first.
Shards begin_write(const at::Tensor& tensor);
// Ends a write: write-back windows are written into their storage.
void end_write(const at::Tensor& tensor);
bool is_unwritten(const at::Tensor& tensor);
// Lets unwritten memory take `layout`, for a write that covers all of it.
void adopt_layout(const at::Tensor& tensor, const Layout& layout);

// Memory that was filled with zeros and not read since stays unwritten:
// `blank`.
bool is_blank(const at::Tensor& tensor);
// Makes it so; false if the tensor's memory has been written, is more than the
// tensor, or is to follow the layout of another.
bool leave_blank(const at::Tensor& tensor);
// Ends it: zeros in `layout`.
void settle_blank(const at::Tensor& tensor, const Layout& layout);

// Writes a value over the whole tensor, which keeps its layout.
//   value    plain tensor of the tensor's sizes
void write_value(const at::Tensor& tensor, const at::Tensor& value);

// The same where nothing of what is there is wanted: nothing moves between
// devices, and a pending sum is dropped. In overwrite.cpp.
void overwrite_value(const at::Tensor& tensor, const at::Tensor& value);

// The whole value as a plain tensor; may alias a shard.
at::Tensor full_value(const at::Tensor& tensor);
// The same for who takes it off the mesh: processes have then agreed on it
// (comm/host_read.h).
at::Tensor host_value(const at::Tensor& tensor);

// Of the exception that is being handled.
std::string text_of_this_error();
// Marks a storage whose write was cut short by an error.
void mark_broken(const at::Tensor& tensor, const std::string& error);

// Throws if that is so.
void check_not_broken(MeshStorage& storage);
[[noreturn]] void raise_broken(const std::string& first_error);

// Forgets such an error, before a write that covers the whole storage; returns
// it, or nullptr.
std::shared_ptr<const std::string> heal(const at::Tensor& tensor);

}  // namespace torch_mesh

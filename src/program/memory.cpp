// memory.cpp: how much memory a storage has, and whether anybody has written
// it.

#include <ATen/EmptyTensor.h>

#include "dispatch/device_index.h"
#include "program/storage_ops.h"
#include "tensor/capacity.h"
#include "tensor/global_tensor.h"
#include "tensor/window.h"

namespace torch_mesh::storage_ops {
namespace {

// Sizes, strides and dtype of `self`'s like. Those of a dense tensor are its
// own unless another format is asked for; for all else torch is asked, on the
// meta device, where this op is a program in Python.
at::Tensor like_on_meta(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const at::TensorOptions options = self.options().device(at::kMeta);
  at::Tensor meta_self =
      at::detail::empty_strided_meta(self.sizes(), self.strides(), options);
  if (args.has("memory_format") && self.is_non_overlapping_and_dense()) {
    const c10::IValue& layout = args["layout"];
    const c10::IValue& format = args["memory_format"];
    if ((layout.isNone() || layout.toLayout() == c10::kStrided) &&
        (format.isNone() ||
         format.toMemoryFormat() == c10::MemoryFormat::Preserve)) {
      const auto dtype = args["dtype"].toOptional<c10::ScalarType>();
      return !dtype || *dtype == self.scalar_type()
                 ? meta_self
                 : at::detail::empty_strided_meta(
                       self.sizes(), self.strides(), options.dtype(*dtype));
    }
  }
  Stack meta = args.copy();
  meta[0] = std::move(meta_self);
  meta[args.op.param("device")] = c10::Device(c10::kMeta);
  args.op.handle.callBoxed(meta);
  return meta[0].toTensor();
}

}  // namespace

// Allocates nothing; remembers the source's layout as a wish (law 6).
bool empty_like(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const auto device = args["device"].toOptional<c10::Device>();
  if (!is_global(self) || (device && !device->is_privateuseone())) {
    return false;
  }
  if (device) {
    check_device_index(*device);
  }
  const at::Tensor like = like_on_meta(args);
  Layout layout = layout_of(self);
  const bool follows = like.sizes() == self.sizes();
  if (!follows) {
    layout = Layout::replicated(layout.mesh());
  }
  layout = layout.with_sums_reduced();
  check_capacity(
      layout,
      like.sizes(),
      like.unsafeGetTensorImpl()->unsafe_storage().nbytes(),
      /*is_placed=*/follows);
  const at::Tensor made =
      make_unwritten(layout, like.sizes(), like.strides(), like.scalar_type());
  // A layout for other sizes is nobody's wish: zeros for the gradient of x[i]
  // take that of what is added to them.
  MeshStorage::of(made)->place(follows);
  return args.give(made);
}

// Zeros are not written until somebody reads them or writes to some (law 6).
bool zero(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  if (!is_global(self) || !leave_blank(self)) {
    return false;
  }
  return args.give(self);
}

// Changes how many elements a tensor has.
bool resize(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const auto sizes = args["size"].toDimVector();
  if (is_global(self) && self.sizes() != c10::IntArrayRef(sizes)) {
    resize_window(self, sizes);
  } else if (!is_global(self)) {
    self.resize_(sizes);
  }
  return args.give(self);
}

bool resize_as(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  self.resize_(args.tensor("the_template").sizes());
  return args.give(self);
}

}  // namespace torch_mesh::storage_ops

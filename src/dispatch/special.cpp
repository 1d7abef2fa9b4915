// special.cpp: the few ops that are no matter of rules, each with its why.

#include <cstring>
#include <map>
#include <optional>

#include <ATen/EmptyTensor.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_to_copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>

#include "comm/run_steps.h"
#include "dispatch/batch_norm.h"
#include "dispatch/crossings.h"
#include "dispatch/device_index.h"
#include "dispatch/log_sigmoid.h"
#include "dispatch/op.h"
#include "dispatch/random_ops.h"
#include "dispatch/recurrent.h"
#include "dispatch/select_slice.h"
#include "dispatch/sparse.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "tensor/capacity.h"
#include "tensor/current_mesh.h"
#include "tensor/global_tensor.h"
#include "tensor/lazy_bits.h"
#include "tensor/window.h"

namespace torch_mesh {
namespace {

c10::IValue& argument(const Op& op, Stack& stack, size_t index) {
  return stack[stack.size() - op.params.size() + index];
}

void give(const Op& op, Stack& stack, c10::IValue result) {
  stack.resize(stack.size() - op.params.size());
  stack.push_back(std::move(result));
}

// Another tensor object for the same window: nothing to plan.
bool alias(const Op& op, Stack& stack) {
  give(op, stack, make_alias(argument(op, stack, 0).toTensor()));
  return true;
}

// A tensor made from a literal is fresh already.
bool lift_fresh(const Op& op, Stack& stack) {
  at::Tensor self = argument(op, stack, 0).toTensor();
  give(op, stack, std::move(self));
  return true;
}

// A number or a few that Python made: their bytes, without a dispatch. Keras
// brings some ten of them over in each step.
std::optional<at::Tensor> copy_of_few(
    const at::Tensor& self,
    std::optional<c10::ScalarType> dtype) {
  constexpr size_t kFewBytes = 256;
  const c10::DispatchKeySet keys = self.key_set();
  const bool plain =
      keys.highestBackendKey() == c10::BackendComponent::CPUBit &&
      keys.has(c10::DispatchKey::CPU) && self.is_contiguous() &&
      !keys.has_any(
          c10::DispatchKeySet(
              {c10::DispatchKey::Conjugate,
               c10::DispatchKey::Negative,
               c10::DispatchKey::ZeroTensor,
               c10::DispatchKey::Python}));
  if (!plain || self.nbytes() > kFewBytes ||
      dtype.value_or(self.scalar_type()) != self.scalar_type()) {
    return std::nullopt;
  }
  at::Tensor copy = at::detail::empty_cpu(self.sizes(), self.scalar_type());
  std::memcpy(copy.mutable_data_ptr(), self.const_data_ptr(), self.nbytes());
  return copy;
}

// A batch that a loop hands over (`use(mesh, batch=...)`), cut on dim 0. Its
// strides are those of the whole.
at::Tensor cut_batch(
    const at::Tensor& self,
    c10::ScalarType dtype,
    std::optional<c10::MemoryFormat> format,
    const Layout& layout) {
  const bool is_as_wanted = dtype == self.scalar_type() &&
                            self.is_non_overlapping_and_dense() &&
                            format.value_or(c10::MemoryFormat::Preserve) ==
                                c10::MemoryFormat::Preserve;
  const at::Tensor whole = is_as_wanted ? self
                                        : at::_to_copy(
                                              self,
                                              dtype,
                                              std::nullopt,
                                              self.device(),
                                              std::nullopt,
                                              /*non_blocking=*/false,
                                              format);
  at::Tensor batch = distribute(whole, layout);
  note_move(batch, layout);
  return batch;
}

// A new tensor in the layout `to`, of a value that is whole on each lane.
at::Tensor cut(const Shards& whole, const Layout& from, const Layout& to) {
  const Shard& first = whole[0];
  const std::vector<int64_t> sizes = first.sizes().vec();
  const std::vector<int64_t> strides = first.strides().vec();
  Shards shards = run_redistribution(
      plan_redistribution(from, to, sizes, first.itemsize()), whole);
  for (Shard& shard : shards) {
    shard = at::empty_strided(
                shard.sizes(),
                strides_in_order_of(as_span(shard.sizes()), strides),
                shard.local().options())
                .copy_(shard.local());
  }
  return make_global(
      to, sizes, strides, first.scalar_type(), std::move(shards));
}

// Crosses the border of the mesh: no device of the mesh does that alone.
bool to_copy(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const auto device = argument(op, stack, 3).toOptional<c10::Device>();
  auto dtype = argument(op, stack, 1).toOptional<c10::ScalarType>();
  if (device) {
    check_device_index(*device);
  }
  if (is_global(self)) {
    if (!device || device->is_privateuseone()) {
      return false;
    }
    if (at::GradMode::is_enabled() && self.requires_grad()) {
      remember_layout(self);
    }
    give(
        op,
        stack,
        at::_to_copy(
            full_value(self),
            dtype,
            std::nullopt,
            device,
            argument(op, stack, 4).toOptional<bool>(),
            argument(op, stack, 5).toBool(),
            argument(op, stack, 6).toOptional<c10::MemoryFormat>()));
    return true;
  }
  const auto returning = layout_of_returning_gradient();
  const Layout in_force = layout_in_force();
  if (!returning && in_force.sharded_axes() != 0 && is_batch(self)) {
    give(
        op,
        stack,
        cut_batch(
            self,
            dtype.value_or(self.scalar_type()),
            argument(op, stack, 6).toOptional<c10::MemoryFormat>(),
            in_force));
    return true;
  }
  const Layout layout =
      Layout::replicated(returning ? returning->mesh() : in_force.mesh());
  Shards shards;
  for (int first : layout.lanes().first_device) {
    const c10::Device to = torch_device(layout.mesh().devices()[first]);
    std::optional<at::Tensor> few;
    if (to.is_cpu() && argument(op, stack, 6).isNone()) {
      few = copy_of_few(self, dtype);
    }
    shards.push_back(
        few ? *std::move(few)
            : at::_to_copy(
                  self,
                  dtype,
                  std::nullopt,
                  to,
                  /*pin_memory=*/std::nullopt,
                  argument(op, stack, 5).toBool(),
                  argument(op, stack, 6).toOptional<c10::MemoryFormat>()));
  }
  if (!shards[0].is_dense()) {
    for (Shard& shard : shards) {
      shard = shard.local().contiguous();
    }
  }
  if (returning && *returning != layout) {
    give(op, stack, cut(shards, layout, *returning));
    return true;
  }
  const Shard& first = shards[0];
  give(
      op,
      stack,
      make_global(
          layout, first.sizes(), first.strides(), first.scalar_type(), shards));
  return true;
}

// Memory that nobody has written takes the layout of what is copied (law 6).
bool copy(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const at::Tensor source = argument(op, stack, 1).toTensor();
  if (!is_global(self)) {
    if (at::GradMode::is_enabled() && source.requires_grad()) {
      remember_layout(source);
    }
    if (!copy_bytes_to_host(self, source)) {
      self.copy_(full_value(source), argument(op, stack, 2).toBool());
    }
    give(op, stack, self);
    return true;
  }
  if (is_global(source) ? copy_storage(self, source)
                        : copy_from_host(self, source)) {
    give(op, stack, self);
    return true;
  }
  if (is_unwritten(self) && is_global(source) && !source.is_alias_of(self) &&
      source.sizes() == self.sizes()) {
    const Layout& layout = layout_of(source);
    adopt_layout(
        self,
        source.scalar_type() == self.scalar_type() ? layout
                                                   : with_sums_reduced(layout));
  }
  return false;
}

// Zeros are not written until somebody reads them or writes to some (law 6).
bool zero(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  if (!is_global(self) || !leave_blank(self)) {
    return false;
  }
  give(op, stack, self);
  return true;
}

// Ends at the host: one value for the whole program.
bool local_scalar_dense(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  give(op, stack, at::_local_scalar_dense(full_value(self)));
  return true;
}

// Whether a padded batch may become a nested tensor. The mesh holds none of
// strided layout, so torch's encoder keeps the padded one and its mask.
bool may_be_nested(const Op& op, Stack& stack) {
  give(op, stack, false);
  return true;
}

// Sizes, strides and dtype of `self`'s like. Those of a dense tensor are its
// own unless another format is asked for; for all else torch is asked, on the
// meta device, where this op is a program in Python.
at::Tensor like_on_meta(
    const Op& op,
    Stack& stack,
    const at::Tensor& self,
    int device_param) {
  const at::TensorOptions options = self.options().device(at::kMeta);
  at::Tensor meta_self =
      at::detail::empty_strided_meta(self.sizes(), self.strides(), options);
  if (op.memory_format_param >= 0 && self.is_non_overlapping_and_dense()) {
    const c10::IValue& layout = argument(op, stack, 2);
    const c10::IValue& format = argument(op, stack, op.memory_format_param);
    if ((layout.isNone() || layout.toLayout() == c10::kStrided) &&
        (format.isNone() ||
         format.toMemoryFormat() == c10::MemoryFormat::Preserve)) {
      const auto dtype = argument(op, stack, 1).toOptional<c10::ScalarType>();
      return !dtype || *dtype == self.scalar_type()
                 ? meta_self
                 : at::detail::empty_strided_meta(
                       self.sizes(), self.strides(), options.dtype(*dtype));
    }
  }
  Stack meta(
      stack.end() - static_cast<ptrdiff_t>(op.params.size()), stack.end());
  meta[0] = std::move(meta_self);
  meta[device_param] = c10::Device(c10::kMeta);
  op.handle.callBoxed(meta);
  return meta[0].toTensor();
}

// Allocates nothing; remembers the source's layout as a wish (law 6).
bool empty_like(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const int device_param = op.schema.param("device");
  const auto device =
      argument(op, stack, device_param).toOptional<c10::Device>();
  if (!is_global(self) || (device && !device->is_privateuseone())) {
    return false;
  }
  if (device) {
    check_device_index(*device);
  }
  const at::Tensor like = like_on_meta(op, stack, self, device_param);
  Layout layout = layout_of(self);
  const bool follows = like.sizes() == self.sizes();
  if (!follows) {
    layout = Layout::replicated(layout.mesh());
  }
  layout = with_sums_reduced(layout);
  check_capacity(
      layout,
      like.sizes(),
      like.unsafeGetTensorImpl()->unsafe_storage().nbytes(),
      /*is_placed=*/follows);
  const at::Tensor made =
      make_unwritten(layout, like.sizes(), like.strides(), like.scalar_type());
  // A layout for other sizes is nobody's wish: zeros for the gradient of x[i]
  // take that of what is added to them.
  MeshStorage::of(made)->is_placed = follows;
  give(op, stack, made);
  return true;
}

// Addresses the storage as plain torch would (law 7).
bool as_strided(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const auto sizes = argument(op, stack, 1).toDimVector();
  const auto strides = argument(op, stack, 2).toDimVector();
  const auto offset = argument(op, stack, 3).toOptional<int64_t>();
  at::Tensor window = window_of_storage(
      self.storage(),
      sizes,
      strides,
      offset.value_or(self.storage_offset()),
      self.scalar_type(),
      self.is_inference());
  LazyBits::of(self).put_on(window);
  give(op, stack, std::move(window));
  return true;
}

// The strides that come with it are those that view() finds itself.
bool reshape_alias(const Op& op, Stack& stack) {
  static const Op& view = op_named("aten::view", "");
  stack.pop_back();
  run_op(view, stack);
  return true;
}

// Parts that autograd takes for tensors of their own lie in the argument's
// memory all the same.
bool unsafe_split(const Op&, Stack& stack) {
  static const Op& split = op_named("aten::split", "Tensor");
  run_op(split, stack);
  return true;
}

bool unsafe_split_with_sizes(const Op&, Stack& stack) {
  static const Op& split = op_named("aten::split_with_sizes", "");
  run_op(split, stack);
  return true;
}

// Changes how many elements a tensor has.
bool resize(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const auto sizes = argument(op, stack, 1).toDimVector();
  if (is_global(self) && self.sizes() != c10::IntArrayRef(sizes)) {
    resize_window(self, sizes);
  } else if (!is_global(self)) {
    self.resize_(sizes);
  }
  give(op, stack, self);
  return true;
}

bool resize_as(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  self.resize_(argument(op, stack, 1).toTensor().sizes());
  give(op, stack, self);
  return true;
}

bool set_source_tensor(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const at::Tensor source = argument(op, stack, 1).toTensor();
  TORCH_CHECK(
      is_global(self) && is_global(source),
      "set_: both tensors must be on the mesh.\nHint: bring the source over "
      "with .to(\"mesh\"). [set-device]");
  become(self, source);
  give(op, stack, self);
  return true;
}

// Whether two tensors are one window on one storage; shards do not tell.
bool is_set_to(const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const at::Tensor other = argument(op, stack, 1).toTensor();
  const bool is_one = is_global(self) && is_global(other) &&
                      self.storage().is_alias_of(other.storage()) &&
                      self.storage_offset() == other.storage_offset() &&
                      self.sizes() == other.sizes() &&
                      self.strides() == other.strides();
  give(op, stack, is_one);
  return true;
}

// slice_scatter, select_scatter and the like of a window: torch copies all of
// its storage, so that the result has the window's strides and offset. `view`:
// the op whose window of the copy `src` is written to.
bool scatter(const Op& view, const Op& op, Stack& stack) {
  const at::Tensor self = argument(op, stack, 0).toTensor();
  const at::Tensor src = argument(op, stack, 1).toTensor();
  if (!is_global(self) || LazyBits::of(self).any() ||
      at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    return false;
  }
  const MeshStorage& storage = *MeshStorage::of(self);
  if (self.storage_offset() == 0 && self.is_non_overlapping_and_dense() &&
      self.numel() * static_cast<int64_t>(self.itemsize()) ==
          static_cast<int64_t>(storage.nbytes())) {
    return false;
  }
  const at::Tensor base = window_of_storage(
      self.storage(),
      storage.base_sizes,
      storage.base_strides,
      /*offset=*/0,
      storage.dtype);
  const at::Tensor copy =
      base.new_empty_strided(base.sizes(), base.strides()).copy_(base);
  const at::Tensor result = window_of_storage(
      copy.storage(),
      self.sizes(),
      self.strides(),
      self.storage_offset(),
      self.scalar_type());
  Stack of_view(
      stack.end() - static_cast<ptrdiff_t>(op.params.size()), stack.end());
  of_view.erase(of_view.begin() + 1);
  of_view[0] = result;
  run_op(view, of_view);
  const at::Tensor part = of_view[0].toTensor();
  if (part.sizes() != src.sizes()) {
    return false;  // the op's own error
  }
  part.copy_(src);
  give(op, stack, result);
  return true;
}

bool as_strided_scatter(const Op& op, Stack& stack) {
  return scatter(op_named("aten::as_strided", ""), op, stack);
}

bool diagonal_scatter(const Op& op, Stack& stack) {
  return scatter(op_named("aten::diagonal", ""), op, stack);
}

bool select_scatter(const Op& op, Stack& stack) {
  return scatter(op_named("aten::select", "int"), op, stack);
}

bool slice_scatter(const Op& op, Stack& stack) {
  return scatter(op_named("aten::slice", "Tensor"), op, stack);
}

const std::map<std::string, SpecialKernel>& table() {
  static const auto* table = new std::map<std::string, SpecialKernel>{
      {"aten::_local_scalar_dense", local_scalar_dense},
      {"aten::_nested_tensor_from_mask_left_aligned", may_be_nested},
      {"aten::_reshape_alias", reshape_alias},
      {"aten::_to_copy", to_copy},
      {"aten::alias", alias},
      {"aten::as_strided", as_strided},
      {"aten::as_strided_scatter", as_strided_scatter},
      {"aten::copy_", copy},
      {"aten::detach", alias},
      {"aten::diagonal_scatter", diagonal_scatter},
      {"aten::empty_like", empty_like},
      {"aten::is_set_to", is_set_to},
      {"aten::lift_fresh", lift_fresh},
      {"aten::native_batch_norm", run_batch_norm},
      {"aten::new_empty", empty_like},
      {"aten::new_empty_strided", empty_like},
      {"aten::resize_", resize},
      {"aten::resize_as_", resize_as},
      {"aten::select.int", run_select},
      {"aten::select_scatter", select_scatter},
      {"aten::set_.source_Tensor", set_source_tensor},
      {"aten::slice.Tensor", run_slice},
      {"aten::slice_scatter", slice_scatter},
      {"aten::unsafe_split.Tensor", unsafe_split},
      {"aten::unsafe_split_with_sizes", unsafe_split_with_sizes},
      {"aten::zero_", zero},
  };
  return *table;
}

}  // namespace

SpecialKernel special_kernel(const std::string& name) {
  auto found = table().find(name);
  if (found != table().end()) {
    return found->second;
  }
  if (SpecialKernel random = random_kernel(name)) {
    return random;
  }
  if (SpecialKernel log_sigmoid = log_sigmoid_kernel(name)) {
    return log_sigmoid;
  }
  if (SpecialKernel sparse = sparse_kernel(name)) {
    return sparse;
  }
  return recurrent_kernel(name);
}

}  // namespace torch_mesh

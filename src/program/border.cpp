// border.cpp: what crosses the border of the mesh, which no device of it does
// alone, and copies between storages.

#include <cstring>
#include <optional>

#include <ATen/EmptyTensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_to_copy.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include "comm/run_steps.h"
#include "dispatch/device_index.h"
#include "program/crossings.h"
#include "program/storage_ops.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "tensor/current_mesh.h"
#include "tensor/global_tensor.h"
#include "tensor/window.h"

namespace torch_mesh::storage_ops {
namespace {

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
  const Shard& first = whole.any();
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

}  // namespace

bool to_copy(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const auto device = args["device"].toOptional<c10::Device>();
  auto dtype = args["dtype"].toOptional<c10::ScalarType>();
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
    return args.give(
        at::_to_copy(
            host_value(self),
            dtype,
            std::nullopt,
            device,
            args["pin_memory"].toOptional<bool>(),
            args["non_blocking"].toBool(),
            args["memory_format"].toOptional<c10::MemoryFormat>()));
  }
  const auto returning = layout_of_returning_gradient();
  const Layout in_force = layout_in_force();
  if (!returning && in_force.sharded_axes() != 0 && is_batch(self)) {
    return args.give(cut_batch(
        self,
        dtype.value_or(self.scalar_type()),
        args["memory_format"].toOptional<c10::MemoryFormat>(),
        in_force));
  }
  const Layout layout =
      Layout::replicated(returning ? returning->mesh() : in_force.mesh());
  const Lanes& lanes = layout.lanes();
  Shards shards(lanes.num);
  for (const int lane : lanes.mine) {
    const c10::Device to =
        torch_device(layout.mesh().devices()[lanes.first_device[lane]]);
    std::optional<at::Tensor> few;
    if (to.is_cpu() && args["memory_format"].isNone()) {
      few = copy_of_few(self, dtype);
    }
    shards[lane] =
        few ? *std::move(few)
            : at::_to_copy(
                  self,
                  dtype,
                  std::nullopt,
                  to,
                  /*pin_memory=*/std::nullopt,
                  args["non_blocking"].toBool(),
                  args["memory_format"].toOptional<c10::MemoryFormat>());
  }
  if (!shards.any().is_dense()) {
    for (Shard& shard : shards) {
      shard = shard.local().contiguous();
    }
  }
  if (returning && *returning != layout) {
    return args.give(cut(shards, layout, *returning));
  }
  const Shard& first = shards.any();
  return args.give(make_global(
      layout, first.sizes(), first.strides(), first.scalar_type(), shards));
}

// Memory that nobody has written takes the layout of what is copied (law 6).
bool copy(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const at::Tensor source = args.tensor("src");
  if (!is_global(self)) {
    if (at::GradMode::is_enabled() && source.requires_grad()) {
      remember_layout(source);
    }
    if (!copy_bytes_to_host(self, source)) {
      self.copy_(host_value(source), args["non_blocking"].toBool());
    }
    return args.give(self);
  }
  if (is_global(source) ? copy_storage(self, source)
                        : copy_from_host(self, source)) {
    return args.give(self);
  }
  if (is_unwritten(self) && is_global(source) && !source.is_alias_of(self) &&
      source.sizes() == self.sizes()) {
    const Layout layout = layout_of(source);
    adopt_layout(
        self,
        source.scalar_type() == self.scalar_type()
            ? layout
            : layout.with_sums_reduced());
  }
  return false;
}

// Ends at the host: one value for the whole program.
bool local_scalar_dense(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  return args.give(at::_local_scalar_dense(host_value(self)));
}

}  // namespace torch_mesh::storage_ops

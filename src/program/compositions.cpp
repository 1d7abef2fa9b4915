// compositions.cpp: what torch computes on the device itself, or composes in a
// way that the mesh is not fit for.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/kaiser_window.h>
#include <ATen/ops/kron.h>
#include <ATen/ops/tensor_split_compositeimplicitautograd_dispatch.h>

#include "dispatch/device_index.h"
#include "program/programs.h"
#include "program/variants.h"

namespace torch_mesh::programs {

// torch composes it of a write through `_unsafe_view`, which on the mesh may be
// a copy.
bool kron_out(const CallArgs& args) {
  const at::Tensor self = args.tensor("self");
  const at::Tensor other = args.tensor("other");
  const at::Tensor out = args.tensor("out");
  TORCH_CHECK(
      !at::GradMode::is_enabled() ||
          !(self.requires_grad() || other.requires_grad() ||
            out.requires_grad()),
      "kron(): functions with out=... arguments don't support automatic "
      "differentiation, but one of the arguments requires grad.");
  // Plain torch's version counter does not see that write.
  const at::AutoDispatchBelowADInplaceOrView guard;
  const at::Tensor result = at::kron(self, other);
  check_can_hold(out, result);
  give_result(result, out, /*keeps_order=*/false);
  return args.give(out);
}

// torch reads the places from host memory and refuses those of another device;
// on the mesh they may be a global tensor.
bool tensor_split(const CallArgs& args) {
  return args.give(
      at::compositeimplicitautograd::tensor_split(
          args.tensor("self"),
          args.tensor("tensor_indices_or_sections").cpu(),
          args["dim"].toInt()));
}

// Whether a padded batch may become a nested tensor. The mesh holds none of
// strided layout, so torch's encoder keeps the padded one and its mask.
bool may_be_nested(const CallArgs& args) { return args.give(false); }

// torch computes it on the device itself, by a loop that a CPU has.
bool kaiser_window(const CallArgs& args) {
  const c10::Device mesh(c10::DeviceType::PrivateUse1);
  constexpr double kBeta = 12;  // where the op has no argument of that name
  check_device_index(args["device"].toOptional<c10::Device>().value_or(mesh));
  const at::Tensor plain = at::kaiser_window(
      args["window_length"].toInt(),
      !args.has("periodic") || args["periodic"].toBool(),
      args.has("beta") ? args["beta"].toDouble() : kBeta,
      args["dtype"].toOptional<c10::ScalarType>(),
      args["layout"].toOptional<c10::Layout>(),
      at::kCPU,
      std::nullopt);
  return args.give(plain.to(mesh));
}

}  // namespace torch_mesh::programs

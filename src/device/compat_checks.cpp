// compat_checks.cpp: each asks torch, in the process that runs.

#include "device/compat_checks.h"

#include <array>
#include <vector>

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <torch_mesh/tensor.h>

#include "device/autocast.h"
#include "random/parts.h"

namespace torch_mesh {
namespace {

using Key = c10::DispatchKey;

Layout rows_of_two() { return Layout::parse(Mesh({{"rows", 2}}), "(S0)"); }

at::Tensor on_mesh(const at::Tensor& tensor) {
  register_device();
  return distribute(tensor, rows_of_two());
}

at::Tensor counted(at::IntArrayRef sizes) {
  return at::arange(c10::multiply_integers(sizes), at::kFloat).view(sizes);
}

std::string unless(bool is_as_expected, const char* problem) {
  return is_as_expected ? "" : problem;
}

std::string autograd_queue() {
  at::Tensor x = on_mesh(counted({4, 3})).requires_grad_();
  (x * 3).sum().backward();
  return unless(
      x.grad().defined() &&
          at::equal(full(x.grad()), at::full({4, 3}, 3, at::kFloat)),
      "a backward on the mesh gives another gradient");
}

std::string input_metadata() {
  at::Tensor plain = counted({3}).requires_grad_();
  (on_mesh(counted({4, 3})) * plain).sum().backward();
  return unless(
      plain.grad().defined() && plain.grad().is_cpu() &&
          at::equal(plain.grad(), counted({4, 3}).sum(0)),
      "the gradient of a plain leaf does not come home");
}

// What autograd has kept of a result stands where it stood once a node is
// watched.
std::string autograd_meta() {
  at::Tensor plain = counted({3}).requires_grad_();
  const at::Tensor result = on_mesh(counted({4, 3})) * plain;
  const bool is_kept = result.requires_grad() && result.grad_fn() &&
                       result.output_nr() == 0 && !result.retains_grad();
  result.retain_grad();
  result.sum().backward();
  return unless(
      is_kept && result.grad().defined() && is_global(result.grad()),
      "a result of global and plain tensors loses what autograd keeps of it");
}

std::string names_of_nodes() {
  at::Tensor x = on_mesh(counted({4, 3})).requires_grad_();
  (x * 1).cpu().sum().backward();
  return unless(
      layout_of(x.grad()) == layout_of(x),
      "the gradient of x.cpu() does not come back in the layout of x");
}

std::string fused_attention() {
  const at::Tensor query = counted({2, 2, 4, 8});
  const at::Tensor there = on_mesh(query);
  return unless(
      at::_fused_sdp_choice(there, there, there) ==
          at::_fused_sdp_choice(query, query, query),
      "attention takes another kernel than on plain tensors");
}

// The engine asks which keys an op has kernels at, to learn what torch composes
// of other ops.
std::string kernel_table() {
  struct Expected {
    const char* name;
    const char* overload;
    Key key;
  };
  const std::array expected = {
      Expected{"aten::mm", "", Key::CPU},
      Expected{"aten::silu_backward", "", Key::CPU},
      Expected{"aten::silu_backward", "", Key::CompositeImplicitAutograd},
      Expected{"aten::matmul", "", Key::CompositeImplicitAutograd},
      Expected{
          "aten::add", "Tensor", Key::CompositeExplicitAutogradNonFunctional},
      Expected{"aten::_foreach_add", "Scalar", Key::CompositeExplicitAutograd},
      Expected{"aten::mode", "values", Key::CompositeExplicitAutograd},
  };
  for (const Expected& one : expected) {
    const auto op =
        c10::Dispatcher::singleton().findOp({one.name, one.overload});
    if (!op || !op->hasKernelForDispatchKey(one.key)) {
      return std::string(one.name) + " has no kernel at " +
             c10::toString(one.key);
    }
  }
  return "";
}

std::string autocast_lists() {
  for (const std::string& name : autocast_names()) {
    bool is_listed = false;
    for (const auto& full : c10::Dispatcher::singleton().getAllOpNames()) {
      if (full.name == "aten::" + name) {
        const auto op = c10::Dispatcher::singleton().findOp(full);
        is_listed |= op && op->hasKernelForDispatchKey(Key::AutocastCPU);
      }
    }
    if (!is_listed) {
      return name + " is in none of the CPU's autocast lists";
    }
  }
  return "";
}

std::string cpu_draws() {
  return unless(
      can_draw_parts(
          {Drawing::Kind::kBernoulli, 0.3, 1, at::kFloat, /*numel=*/1}),
      "torch draws Bernoulli numbers in another order; dropout is right, and "
      "slower");
}

constexpr std::array kChecks = {
    CompatCheck{"autograd-queue",
                "src/dispatch/autograd_thread.cpp",
                autograd_queue},
    CompatCheck{"input-metadata",
                "src/dispatch/plain_gradients.cpp",
                input_metadata},
    CompatCheck{"autograd-meta",
                "src/dispatch/plain_gradients.cpp",
                autograd_meta},
    CompatCheck{"names-of-nodes", "src/program/crossings.cpp", names_of_nodes},
    CompatCheck{"fused-attention",
                "src/program/attention.cpp",
                fused_attention},
    CompatCheck{"kernel-table", "src/device/registration.cpp", kernel_table},
    CompatCheck{"autocast-lists", "src/device/autocast.cpp", autocast_lists},
    CompatCheck{"cpu-draws", "src/random/parts.cpp", cpu_draws},
};

}  // namespace

std::span<const CompatCheck> compat_checks() { return kChecks; }

}  // namespace torch_mesh

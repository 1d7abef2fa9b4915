// random_ops.cpp: draw the whole, then cut it.

#include "dispatch/random_ops.h"

#include <set>

#include <ATen/ops/bernoulli.h>
#include <ATen/ops/dropout_compositeimplicitautograd_dispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>

#include <torch_mesh/tensor.h>

#include "random/bernoulli.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

// Plain memory for numbers to be drawn: with the sizes and strides of `tensor`,
// which gives it the same bits at the same places.
at::Tensor empty_whole(const at::Tensor& tensor) {
  return at::empty_strided(
      tensor.sizes(),
      strides_in_order_of(
          {tensor.sizes().data(), tensor.sizes().size()},
          {tensor.strides().data(), tensor.strides().size()}),
      tensor.options().device(at::kCPU));
}

// The same with the very strides of `tensor`: where they leave gaps, kernels
// draw one number after the other.
at::Tensor empty_as(const at::Tensor& tensor) {
  return at::empty_strided(
      tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}

// Whether one local tensor is all there is of it. Asks a window that would have
// to be gathered nothing.
bool has_one_replica(const at::Tensor& tensor) {
  if (meta_of(tensor).is_write_back) {
    return false;
  }
  read(tensor);
  return layout_of(tensor).is_replicated() &&
         layout_of(tensor).lanes().num == 1;
}

// normal_, uniform_, ...: fills a plain tensor.
bool draw_in_place(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor self = stack[base].toTensor();
  if (!is_global(self)) {
    return false;
  }
  const bool direct = has_one_replica(self);
  const at::Tensor whole = direct ? begin_write(self)[0] : empty_as(self);
  Stack local{whole};
  for (size_t p = 1; p < op.params.size(); ++p) {
    const c10::IValue& value = stack[base + p];
    local.push_back(
        value.isTensor() && is_global(value.toTensor())
            ? c10::IValue(full_value(value.toTensor()))
            : value);
  }
  op.handle.callBoxed(local);
  if (direct) {
    end_write(self);
  } else {
    overwrite_value(self, whole);
  }
  stack.resize(base);
  stack.emplace_back(self);
  return true;
}

// As `dropout`. The mask that backward reads is boolean.
bool native_dropout(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor input = stack[base].toTensor();
  const double p = stack[base + 1].toDouble();
  const bool train = stack[base + 2].isNone() || stack[base + 2].toBool();
  if (!is_global(input)) {
    return false;
  }
  at::Tensor output;
  at::Tensor mask;
  if (!train || p == 0) {
    output = input.clone();
    mask = at::ones_like(input, input.options().dtype(at::kBool));
  } else {
    const at::Tensor whole = empty_whole(input);
    whole.bernoulli_(1 - p);
    mask = at::empty_like(input, input.options().dtype(at::kBool));
    mask.copy_(whole);
    if (p == 1) {
      output = input.mul(whole);
    } else {
      output = input.mul(whole.div_(1 - p));
    }
  }
  stack.resize(base);
  stack.emplace_back(output);
  stack.emplace_back(mask);
  return true;
}

// What torch draws for dropout: 1 / p with probability p, else 0.
at::Tensor noise_like(const at::Tensor& input, double p) {
  const at::Tensor whole = empty_whole(input);
  if (whole.scalar_type() != at::kFloat || !whole.is_contiguous()) {
    return whole.bernoulli_(p).div_(p);
  }
  const at::Tensor kept = at::ones({}, whole.options()).div_(p);
  fill_bernoulli(whole, p, *kept.const_data_ptr<float>());
  return whole;
}

}  // namespace

at::Tensor dropout(const at::Tensor& input, double p, bool train) {
  const bool draws = train && p > 0 && p < 1;
  if (!draws || !is_global(input) || input.numel() == 0) {
    return at::compositeimplicitautograd::dropout(input, p, train);
  }
  at::Tensor noise;
  {
    const LocalOps local;
    // This runs above the dispatcher's modes, which shall not see local ops.
    const c10::impl::ExcludeDispatchKeyGuard no_modes(c10::python_ks);
    const at::Tensor whole = noise_like(input, 1 - p);
    const Layout layout = with_sums_reduced(layout_of(input));
    noise = whole.is_contiguous() ? borrow(whole, layout)
                                  : distribute(whole, layout);
  }
  return input.mul(noise);
}

bool draws_in_place(const std::string& name) {
  static const auto* in_place = new std::set<std::string>{
      "aten::bernoulli_.Tensor",
      "aten::bernoulli_.float",
      "aten::cauchy_",
      "aten::exponential_",
      "aten::geometric_",
      "aten::log_normal_",
      "aten::normal_",
      "aten::random_",
      "aten::random_.from",
      "aten::random_.to",
      "aten::uniform_",
  };
  return in_place->count(name) != 0;
}

SpecialKernel random_kernel(const std::string& name) {
  if (draws_in_place(name)) {
    return draw_in_place;
  }
  return name == "aten::native_dropout" ? native_dropout : nullptr;
}

}  // namespace torch_mesh

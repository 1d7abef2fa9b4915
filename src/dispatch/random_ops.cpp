// random_ops.cpp: draw the whole, then cut it.

#include "dispatch/random_ops.h"

#include <set>

#include <ATen/ops/bernoulli.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones_like.h>

#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

// normal_, uniform_, ...: fills a plain tensor with the destination's sizes and
// strides, which gives it the same bits at the same places.
bool draw_in_place(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor self = stack[base].toTensor();
  if (!is_global(self)) {
    return false;
  }
  read(self);
  const Layout layout = layout_of(self);
  const bool direct = layout.is_replicated() && layout.lanes().num == 1 &&
                      !meta_of(self).is_write_back;
  const at::Tensor whole =
      direct ? begin_write(self)[0]
             : at::empty_strided(
                   self.sizes(),
                   strides_in_order_of(
                       {self.sizes().data(), self.sizes().size()},
                       {self.strides().data(), self.strides().size()}),
                   self.options().device(at::kCPU));
  Stack local(stack.begin() + static_cast<ptrdiff_t>(base), stack.end());
  for (c10::IValue& value : local) {
    if (value.isTensor() && is_global(value.toTensor())) {
      value = full_value(value.toTensor());
    }
  }
  local[0] = whole;
  op.handle.callBoxed(local);
  if (direct) {
    end_write(self);
  } else {
    reduce_storage(self, layout.partial_axes());
    write_value(self, whole);
  }
  stack.resize(base);
  stack.emplace_back(self);
  return true;
}

// What F.dropout computes on CPU: noise of the input's dtype, drawn for the
// whole input, divided by 1 - p. The mask that backward reads is boolean.
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
    const at::Tensor whole = at::empty_strided(
        input.sizes(),
        strides_in_order_of(
            {input.sizes().data(), input.sizes().size()},
            {input.strides().data(), input.strides().size()}),
        input.options().device(at::kCPU));
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

}  // namespace

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

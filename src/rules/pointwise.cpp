// pointwise.cpp: ops that compute each element from those at its place.
//
// torch tags most of them, and pointwise_rule() is theirs. Here stand those
// that carry a partial sum on, and those that torch leaves untagged.
//
// An argument is linear if f(a + b) = f(a) + f(b) with the others held. Adding
// a number is not: each device would add it. Casts to bool and integers are
// not.

#include "rules/families.h"

namespace torch_mesh::rules {

std::shared_ptr<const Rule> pointwise_rule() {
  static const auto* rule =
      new std::shared_ptr<const Rule>(Rule::parse("x*, ... -> x*, ..."));
  return *rule;
}

void add_pointwise_rules(RuleTable& table) {
  table.add_all(
      {"aten::_conj",
       "aten::_conj_physical",
       "aten::_neg_view",
       "aten::clone",
       "aten::conj_physical",
       "aten::deg2rad",
       "aten::lift",
       "aten::lift_fresh_copy",
       "aten::neg",
       "aten::positive",
       "aten::rad2deg"},
      "x* -> x* linear(0)");
  table.add("aten::zero", "x* -> x* linear(0) overwrites bears_overlap");
  table.add(
      "aten::_to_copy", "x* -> x* linear(0) when(dtype=floating) | x* -> x*");
  table.add_all(
      {"aten::add.Tensor", "aten::sub.Tensor", "aten::rsub.Tensor"},
      "x*, x* -> x* linear(0 1)");
  table.add("aten::mul", "x*, ... -> x* linear(0, 1)");
  table.add(
      "aten::div",
      "x*, ... -> x* linear(0) divides when(rounding_mode=None) | "
      "x*, ... -> x*");
  table.add_all(
      {"aten::lerp.Scalar", "aten::lerp.Tensor"}, "x*, ... -> x* linear(0 1)");
  table.add("aten::addcmul", "x*, x*, x* -> x* linear(0 1, 0 2)");
  table.add("aten::addcdiv", "x*, x*, x* -> x* linear(0 1) divides");
  table.add("aten::where.self", "x*, x*, x* -> x* linear(1 2)");
  table.add("aten::masked_fill.Tensor", "x*, x*, . -> x* linear(0 2)");
  table.add("aten::masked_fill.Scalar", "x*, x* -> x*");
  // The destination's old value is gone: only the source has to be a part.
  table.add(
      "aten::copy", "x*, x* -> x* linear(0 1) overwrites refuses_overlap");
  table.add("aten::fill", "x*, ... -> x* overwrites bears_overlap");
  // Gradients are linear in the gradient that comes in.
  table.add_all(
      {"aten::_masked_scale",
       "aten::elu_backward",
       "aten::gelu_backward",
       "aten::hardshrink_backward",
       "aten::hardsigmoid_backward",
       "aten::hardswish_backward",
       "aten::hardtanh_backward",
       "aten::leaky_relu_backward",
       "aten::logit_backward",
       "aten::mish_backward",
       "aten::native_dropout_backward",
       "aten::sigmoid_backward",
       "aten::silu_backward",
       "aten::softplus_backward",
       "aten::softshrink_backward",
       "aten::tanh_backward",
       "aten::threshold_backward"},
      "x*, ... -> x* linear(0)");
  table.add_all(
      {"aten::_prelu_kernel",
       "aten::hardswish",
       "aten::polar",
       "aten::complex"},
      "x*, ... -> x*");
  table.add("aten::floor_divide", "x*, ... -> x* keeps_format");
  table.add("aten::_prelu_kernel_backward", "x*, ... -> x*, ... linear(0)");
  table.add("torch_mesh::log_sigmoid", "x* -> x*");
  table.add("torch_mesh::log_sigmoid_grad", "x*, x* -> x* linear(0)");
  // torch does not tag these where they write in place.
  table.add_words(
      {"aten::copysign_",
       "aten::eq_",
       "aten::ge_",
       "aten::gt_",
       "aten::le_",
       "aten::lt_",
       "aten::ne_"},
      "refuses_overlap");
  // Halves along a dim meet.
  table.add("aten::glu", "x* -> x* remakes(dim)");
  table.add("aten::glu_backward", "x*, y* -> y* along(dim) linear(0)");
  table.add_all(
      {"aten::view_as_real", "aten::view_as_real_copy"},
      "x* -> x* 2 linear(0)");
  table.add_all(
      {"aten::view_as_complex", "aten::view_as_complex_copy"},
      "x* 2 -> x* linear(0)");
}

}  // namespace torch_mesh::rules

// recurrent.cpp: the plain formulas of the cells, and their derivatives.
//
// The workspace is what the backward needs, in this file's own order: LSTM
// keeps the activated gates (i, f, g, o); GRU keeps (r, z, n, h_n, hx), where
// h_n is the hidden part of the new gate.

#include "dispatch/recurrent.h"

#include <ATen/Functions.h>

namespace torch_mesh {
namespace {

using at::Tensor;

Tensor tensor_or_none(const c10::IValue& value) {
  return value.isTensor() ? value.toTensor() : Tensor();
}

Tensor with_bias(const Tensor& gates, const c10::IValue& bias) {
  const Tensor defined = tensor_or_none(bias);
  return defined.defined() ? at::add(gates, defined) : gates;
}

void give(const Op& op, Stack& stack, std::initializer_list<Tensor> results) {
  stack.resize(stack.size() - op.params.size());
  for (const Tensor& result : results) {
    stack.emplace_back(result);
  }
}

const c10::IValue* args_of(const Op& op, const Stack& stack) {
  return stack.data() + (stack.size() - op.params.size());
}

// d sigmoid, d tanh, given the activated value.
Tensor d_sigmoid(const Tensor& y) { return at::mul(y, at::rsub(y, 1)); }

Tensor d_tanh(const Tensor& y) { return at::rsub(at::mul(y, y), 1); }

bool lstm_cell(const Op& op, Stack& stack) {
  const c10::IValue* args = args_of(op, stack);
  const Tensor gates = at::add(
      with_bias(args[0].toTensor(), args[3]),
      with_bias(args[1].toTensor(), args[4]));
  const auto parts = at::chunk(gates, 4, 1);
  const Tensor i = at::sigmoid(parts[0]);
  const Tensor f = at::sigmoid(parts[1]);
  const Tensor g = at::tanh(parts[2]);
  const Tensor o = at::sigmoid(parts[3]);
  const Tensor cy = at::add(at::mul(f, args[2].toTensor()), at::mul(i, g));
  const Tensor hy = at::mul(o, at::tanh(cy));
  give(op, stack, {hy, cy, at::cat({i, f, g, o}, 1)});
  return true;
}

// (grad_hy?, grad_cy?, cx, cy, workspace) -> (grad_gates, grad_cx, grad_bias)
bool lstm_cell_backward(const Op& op, Stack& stack) {
  const c10::IValue* args = args_of(op, stack);
  const Tensor grad_hy = tensor_or_none(args[0]);
  const Tensor grad_cy = tensor_or_none(args[1]);
  const Tensor cx = args[2].toTensor();
  const Tensor cy = args[3].toTensor();
  const auto parts = at::chunk(args[4].toTensor(), 4, 1);
  const Tensor &i = parts[0], &f = parts[1], &g = parts[2], &o = parts[3];
  const Tensor tanh_cy = at::tanh(cy);
  Tensor grad_c = grad_cy;
  Tensor grad_o = at::zeros_like(o);
  if (grad_hy.defined()) {
    const Tensor through = at::mul(at::mul(grad_hy, o), d_tanh(tanh_cy));
    grad_c = grad_c.defined() ? at::add(grad_c, through) : through;
    grad_o = at::mul(at::mul(grad_hy, tanh_cy), d_sigmoid(o));
  }
  const Tensor grad_gates = at::cat(
      {at::mul(at::mul(grad_c, g), d_sigmoid(i)),
       at::mul(at::mul(grad_c, cx), d_sigmoid(f)),
       at::mul(at::mul(grad_c, i), d_tanh(g)),
       grad_o},
      1);
  const Tensor grad_bias =
      args[5].toBool() ? at::sum(grad_gates, {0}) : Tensor();
  give(op, stack, {grad_gates, at::mul(grad_c, f), grad_bias});
  return true;
}

bool gru_cell(const Op& op, Stack& stack) {
  const c10::IValue* args = args_of(op, stack);
  const auto input = at::chunk(with_bias(args[0].toTensor(), args[3]), 3, 1);
  const auto hidden = at::chunk(with_bias(args[1].toTensor(), args[4]), 3, 1);
  const Tensor hx = args[2].toTensor();
  const Tensor r = at::sigmoid(at::add(input[0], hidden[0]));
  const Tensor z = at::sigmoid(at::add(input[1], hidden[1]));
  const Tensor n = at::tanh(at::add(input[2], at::mul(r, hidden[2])));
  const Tensor hy = at::add(n, at::mul(z, at::sub(hx, n)));
  give(op, stack, {hy, at::cat({r, z, n, hidden[2], hx}, 1)});
  return true;
}

// (grad_hy, workspace) -> (grad_input_gates, grad_hidden_gates, grad_hx,
// grad_input_bias, grad_hidden_bias)
bool gru_cell_backward(const Op& op, Stack& stack) {
  const c10::IValue* args = args_of(op, stack);
  const Tensor grad = args[0].toTensor();
  const auto parts = at::chunk(args[1].toTensor(), 5, 1);
  const Tensor &r = parts[0], &z = parts[1], &n = parts[2];
  const Tensor &h_n = parts[3], &hx = parts[4];
  const Tensor grad_z = at::mul(at::mul(grad, at::sub(hx, n)), d_sigmoid(z));
  const Tensor grad_n = at::mul(at::mul(grad, at::rsub(z, 1)), d_tanh(n));
  const Tensor grad_r = at::mul(at::mul(grad_n, h_n), d_sigmoid(r));
  const Tensor grad_input = at::cat({grad_r, grad_z, grad_n}, 1);
  const Tensor grad_hidden = at::cat({grad_r, grad_z, at::mul(grad_n, r)}, 1);
  const bool has_bias = args[2].toBool();
  give(
      op,
      stack,
      {grad_input,
       grad_hidden,
       at::mul(grad, z),
       has_bias ? at::sum(grad_input, {0}) : Tensor(),
       has_bias ? at::sum(grad_hidden, {0}) : Tensor()});
  return true;
}

}  // namespace

SpecialKernel recurrent_kernel(const std::string& name) {
  return name == "aten::_thnn_fused_lstm_cell" ? lstm_cell
         : name == "aten::_thnn_fused_lstm_cell_backward_impl"
             ? lstm_cell_backward
         : name == "aten::_thnn_fused_gru_cell"          ? gru_cell
         : name == "aten::_thnn_fused_gru_cell_backward" ? gru_cell_backward
                                                         : nullptr;
}

}  // namespace torch_mesh

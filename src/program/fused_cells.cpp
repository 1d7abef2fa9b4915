// fused_cells.cpp: LSTM and GRU cells by their plain formulas, and derivatives.
//
// torch calls these ops on every device but the CPU, and they have no CPU
// kernel. The workspace is what the backward needs, in this file's own order:
// LSTM keeps the activated gates (i, f, g, o); GRU keeps (r, z, n, h_n, hx),
// where h_n is the hidden part of the new gate.

#include <ATen/Functions.h>

#include "program/programs.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

Tensor with_bias(const Tensor& gates, const std::optional<Tensor>& bias) {
  return bias ? at::add(gates, *bias) : gates;
}

// d sigmoid, d tanh, given the activated value.
Tensor d_sigmoid(const Tensor& y) { return at::mul(y, at::rsub(y, 1)); }

Tensor d_tanh(const Tensor& y) { return at::rsub(at::mul(y, y), 1); }

}  // namespace

bool fused_lstm_cell(const CallArgs& args) {
  const Tensor gates = at::add(
      with_bias(args.tensor("input_gates"), args.optional_tensor("input_bias")),
      with_bias(
          args.tensor("hidden_gates"), args.optional_tensor("hidden_bias")));
  const auto parts = at::chunk(gates, 4, 1);
  const Tensor i = at::sigmoid(parts[0]);
  const Tensor f = at::sigmoid(parts[1]);
  const Tensor g = at::tanh(parts[2]);
  const Tensor o = at::sigmoid(parts[3]);
  const Tensor cy = at::add(at::mul(f, args.tensor("cx")), at::mul(i, g));
  const Tensor hy = at::mul(o, at::tanh(cy));
  return args.give(hy, cy, at::cat({i, f, g, o}, 1));
}

// (grad_hy?, grad_cy?, cx, cy, workspace) -> (grad_gates, grad_cx, grad_bias)
bool fused_lstm_cell_backward(const CallArgs& args) {
  const Tensor grad_hy = args.optional_tensor("grad_hy").value_or(Tensor());
  const Tensor grad_cy = args.optional_tensor("grad_cy").value_or(Tensor());
  const Tensor cx = args.tensor("cx");
  const Tensor cy = args.tensor("cy");
  const auto parts = at::chunk(args.tensor("workspace"), 4, 1);
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
      args["has_bias"].toBool() ? at::sum(grad_gates, {0}) : Tensor();
  return args.give(grad_gates, at::mul(grad_c, f), grad_bias);
}

bool fused_gru_cell(const CallArgs& args) {
  const auto input = at::chunk(
      with_bias(args.tensor("input_gates"), args.optional_tensor("input_bias")),
      3,
      1);
  const auto hidden = at::chunk(
      with_bias(
          args.tensor("hidden_gates"), args.optional_tensor("hidden_bias")),
      3,
      1);
  const Tensor hx = args.tensor("hx");
  const Tensor r = at::sigmoid(at::add(input[0], hidden[0]));
  const Tensor z = at::sigmoid(at::add(input[1], hidden[1]));
  const Tensor n = at::tanh(at::add(input[2], at::mul(r, hidden[2])));
  const Tensor hy = at::add(n, at::mul(z, at::sub(hx, n)));
  return args.give(hy, at::cat({r, z, n, hidden[2], hx}, 1));
}

// (grad_hy, workspace) -> (grad_input_gates, grad_hidden_gates, grad_hx,
// grad_input_bias, grad_hidden_bias)
bool fused_gru_cell_backward(const CallArgs& args) {
  const Tensor grad = args.tensor("grad_hy");
  const auto parts = at::chunk(args.tensor("workspace"), 5, 1);
  const Tensor &r = parts[0], &z = parts[1], &n = parts[2];
  const Tensor &h_n = parts[3], &hx = parts[4];
  const Tensor grad_z = at::mul(at::mul(grad, at::sub(hx, n)), d_sigmoid(z));
  const Tensor grad_n = at::mul(at::mul(grad, at::rsub(z, 1)), d_tanh(n));
  const Tensor grad_r = at::mul(at::mul(grad_n, h_n), d_sigmoid(r));
  const Tensor grad_input = at::cat({grad_r, grad_z, grad_n}, 1);
  const Tensor grad_hidden = at::cat({grad_r, grad_z, at::mul(grad_n, r)}, 1);
  const bool has_bias = args["has_bias"].toBool();
  return args.give(
      grad_input,
      grad_hidden,
      at::mul(grad, z),
      has_bias ? at::sum(grad_input, {0}) : Tensor(),
      has_bias ? at::sum(grad_hidden, {0}) : Tensor());
}

}  // namespace torch_mesh::programs

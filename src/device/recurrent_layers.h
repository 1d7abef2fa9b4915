// recurrent_layers.h: lstm, gru, rnn_tanh and rnn_relu, whole layers.

#pragma once

namespace torch_mesh {

// Gives the eight ops kernels on global tensors. Where the batch alone is cut,
// torch's own kernel runs in each memory, forward and backward; elsewhere the
// op stays the composition of cells that it is on other devices.
void register_recurrent_layers();

}  // namespace torch_mesh

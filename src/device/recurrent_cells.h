// recurrent_cells.h: lstm_cell, gru_cell, rnn_tanh_cell and rnn_relu_cell.

#pragma once

namespace torch_mesh {

// Gives the four ops kernels on global tensors. Where the batch alone is cut,
// one step of torch's own cell runs in each memory, and is one node of the
// caller's graph; elsewhere the op stays the composition that it is on other
// devices.
void register_recurrent_cells();

}  // namespace torch_mesh

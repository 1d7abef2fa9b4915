// recurrent.h: LSTM and GRU cells.

#pragma once

#include <string>

#include "dispatch/op.h"

namespace torch_mesh {

// The kernels of `_thnn_fused_lstm_cell`, `_thnn_fused_gru_cell` and their
// backwards, which torch calls on every device but the CPU and which have no
// CPU kernel; nullptr for other ops. Programs of ops on global tensors.
SpecialKernel recurrent_kernel(const std::string& name);

}  // namespace torch_mesh

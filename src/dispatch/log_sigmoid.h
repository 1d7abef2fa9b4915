// log_sigmoid.h: an op whose second result differs between devices.

#pragma once

#include "dispatch/op.h"

namespace torch_mesh {

// `log_sigmoid_forward` and its backward; nullptr for other ops.
SpecialKernel log_sigmoid_kernel(const std::string& name);

}  // namespace torch_mesh

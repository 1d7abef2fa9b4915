// numpy.h: Tensor.numpy, for global tensors too.

#pragma once

#include <pybind11/pybind11.h>

namespace torch_mesh {

void bind_numpy(pybind11::module_& m);

}  // namespace torch_mesh

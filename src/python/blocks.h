// blocks.h: bindings of tensors in pieces, and of the byte counters.

#pragma once

#include <pybind11/pybind11.h>

namespace torch_mesh {

void bind_blocks(pybind11::module_& m);

}  // namespace torch_mesh

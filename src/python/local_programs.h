// local_programs.h: programs in Python, run on the memories.

#pragma once

#include <pybind11/pybind11.h>

namespace torch_mesh {

void bind_local_programs(pybind11::module_& m);

}  // namespace torch_mesh

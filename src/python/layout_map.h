// layout_map.h: the part of torch_mesh._C that finds patterns for paths.

#pragma once

#include <pybind11/pybind11.h>

namespace torch_mesh {

void bind_layout_map(pybind11::module_& m);

}  // namespace torch_mesh

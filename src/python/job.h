// job.h: joining a job, for Python.

#pragma once

#include <pybind11/pybind11.h>

namespace torch_mesh {

void bind_job(pybind11::module_& m);

}  // namespace torch_mesh

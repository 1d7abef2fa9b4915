// job_for_testing.h: parts of a job by themselves, for tests of them.

#pragma once

#include <pybind11/pybind11.h>

namespace torch_mesh {

void bind_job_for_testing(pybind11::module_& m);

}  // namespace torch_mesh

// local_programs.cpp: the binding of run_on_memories.

#include "python/local_programs.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/csrc/utils/pybind.h>

#include "program/local_program.h"

namespace py = pybind11;

namespace torch_mesh {
namespace {

using Tensors = LocalProgram::Tensors;

// A function that threads without the interpreter's lock may call and drop.
LocalProgram::Body body_of(const py::function& function) {
  const std::shared_ptr<const py::function> held(
      new py::function(function), [](const py::function* dropped) {
        if (Py_IsInitialized()) {
          const py::gil_scoped_acquire lock;
          delete dropped;
        }
      });
  return [held](const Tensors& tensors) {
    const py::gil_scoped_acquire lock;
    return (*held)(tensors).cast<Tensors>();
  };
}

}  // namespace

void bind_local_programs(py::module_& m) {
  m.def(
      "run_on_memories",
      // `results`: the dim of the batch, and the dims as they lie in memory.
      [](const std::string& name,
         const py::function& local,
         const py::function& composed,
         const std::vector<at::Tensor>& inputs,
         const std::vector<int64_t>& batch_dims,
         const std::vector<std::pair<int64_t, std::vector<int64_t>>>& results,
         int64_t kept) {
        auto program = std::make_shared<LocalProgram>();
        program->name = name;
        program->local = body_of(local);
        program->composed = body_of(composed);
        program->batch_dims = batch_dims;
        for (const auto& [batch_dim, order] : results) {
          program->results.push_back({batch_dim, order});
        }
        program->kept = kept;
        return run_on_memories(
            std::move(program), inputs, /*differentiable=*/true);
      },
      py::arg("name"),
      py::arg("local"),
      py::arg("composed"),
      py::arg("inputs"),
      py::arg("batch_dims"),
      py::arg("results"),
      py::arg("kept"));
}

}  // namespace torch_mesh

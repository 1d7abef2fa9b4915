// blocks.cpp: bindings of <torch_mesh/blocks.h> and <torch_mesh/memory.h>.

#include "python/blocks.h"

#include <torch/csrc/utils/pybind.h>

#include <torch_mesh/blocks.h>
#include <torch_mesh/memory.h>

namespace py = pybind11;

namespace torch_mesh {

void bind_blocks(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def(
      "zeros",
      // `like` carries the dtype.
      [](const Layout& layout,
         const std::vector<int64_t>& sizes,
         const at::Tensor& like) {
        return zeros(layout, sizes, like.scalar_type());
      },
      py::arg("layout"),
      py::arg("sizes"),
      py::arg("like"),
      Release());
  m.def(
      "read_block",
      &read_block,
      py::arg("tensor"),
      py::arg("start"),
      py::arg("count"),
      Release());
  m.def(
      "write_block",
      &write_block,
      py::arg("tensor"),
      py::arg("start"),
      py::arg("values"),
      Release());
  m.def("read_bytes", &read_bytes, py::arg("to"), py::arg("source"), Release());
  m.def(
      "memory_of_process",
      [](const std::vector<at::Tensor>& living) {
        const HeldBytes held = memory_of_process(living);
        return std::pair(held.now, held.peak);
      },
      py::arg("living"));
  m.def("is_memory_counted", &is_memory_counted);
  m.def("reset_peak_memory", &reset_peak_memory);
  py::class_<CountingMemory>(m, "CountingMemory")
      .def(py::init<>())
      .def_property_readonly(
          "now",
          [](const CountingMemory& memory) { return memory.so_far().now; })
      .def_property_readonly("peak", [](const CountingMemory& memory) {
        return memory.so_far().peak;
      });
}

}  // namespace torch_mesh

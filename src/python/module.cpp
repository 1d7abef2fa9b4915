// module.cpp: the Python module torch_mesh._C: bindings, no logic.

#include <cctype>

#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <torch_mesh/error.h>
#include <torch_mesh/layout.h>
#include <torch_mesh/rule.h>
#include <torch_mesh/tensor.h>

#include "comm/communicator.h"
#include "device/compat_checks.h"
#include "device/read_only.h"
#include "dispatch/device_index.h"
#include "dispatch/ops.h"
#include "job/background.h"
#include "python/blocks.h"
#include "python/job.h"
#include "python/job_for_testing.h"
#include "python/layout_map.h"
#include "python/local_programs.h"
#include "python/numpy.h"
#include "tensor/current_mesh.h"
#include "tensor/global_tensor.h"
#include "tensor/state_text.h"
#include "trace/counters.h"
#include "trace/explain.h"

namespace py = pybind11;

namespace torch_mesh {
namespace {

// Errors of the core are ValueError, NotImplementedError or RuntimeError.
void translate(const CoreError& error) {
  switch (error.kind) {
    case ErrorKind::kValue:
      PyErr_SetString(PyExc_ValueError, error.what());
      return;
    case ErrorKind::kNotSupported:
      PyErr_SetString(PyExc_NotImplementedError, error.what());
      return;
    case ErrorKind::kProcess:
    case ErrorKind::kBug:
      break;
  }
  PyErr_SetString(PyExc_RuntimeError, error.what());
}

Mesh make_mesh(
    const std::vector<std::pair<std::string, int64_t>>& axes,
    const std::vector<std::string>& devices) {
  std::vector<Mesh::Axis> named;
  for (const auto& [name, size] : axes) {
    named.push_back({name, size});
  }
  std::vector<Device> parsed;
  for (const std::string& device : devices) {
    parsed.push_back(Device::parse(device));
  }
  return Mesh(std::move(named), std::move(parsed));
}

std::vector<std::pair<std::string, int64_t>> axes_of(const Mesh& mesh) {
  std::vector<std::pair<std::string, int64_t>> axes;
  for (int axis = 0; axis < mesh.num_axes(); ++axis) {
    axes.emplace_back(mesh.axis(axis).name, mesh.axis(axis).size);
  }
  return axes;
}

std::vector<std::string> devices_of(const Mesh& mesh) {
  std::vector<std::string> devices;
  for (const Device& device : mesh.devices()) {
    devices.push_back(device.str());
  }
  return devices;
}

Layout make_layout(
    const Mesh& mesh,
    const std::vector<std::string>& placements) {
  std::vector<Placement> parsed;
  for (const std::string& placement : placements) {
    parsed.push_back(Placement::parse(placement));
  }
  return Layout(mesh, parsed);
}

std::vector<std::string> placements_of(const Layout& layout) {
  std::vector<std::string> placements;
  for (const Placement& placement : layout.placements()) {
    placements.push_back(placement.str());
  }
  return placements;
}

void bind_layouts(py::module_& m) {
  py::class_<Mesh>(m, "Mesh")
      .def(py::init(&make_mesh), py::arg("axes"), py::arg("devices"))
      .def_property_readonly("axes", &axes_of)
      .def_property_readonly("devices", &devices_of)
      .def_property_readonly("size", &Mesh::size)
      .def_property_readonly("one_memory", &Mesh::one_memory)
      .def("is_between_processes", &Mesh::is_between_processes, py::arg("axis"))
      .def("__str__", &Mesh::str)
      .def("__eq__", [](const Mesh& a, const Mesh& b) { return a == b; })
      .def(
          "__hash__", [](const Mesh& mesh) { return std::hash<Mesh>()(mesh); });
  py::class_<Layout>(m, "Layout")
      .def(py::init(&make_layout), py::arg("mesh"), py::arg("placements"))
      .def_static("parse", &Layout::parse, py::arg("mesh"), py::arg("text"))
      .def_static("replicated", &Layout::replicated, py::arg("mesh"))
      .def_property_readonly("mesh", &Layout::mesh)
      .def_property_readonly("placements", &placements_of)
      .def_property_readonly("is_replicated", &Layout::is_replicated)
      .def_property_readonly("has_partial", &Layout::has_partial)
      .def_property_readonly(
          "lane_of_device",
          [](const Layout& layout) { return layout.lanes().lane_of_device; })
      .def("__str__", &Layout::str)
      .def("__eq__", [](const Layout& a, const Layout& b) { return a == b; })
      .def("__hash__", [](const Layout& layout) { return layout.id(); });
  m.def(
      "shard_sizes",
      [](const Layout& layout, const std::vector<int64_t>& sizes, int device) {
        check_layout(layout, sizes);
        return shard_sizes(layout, sizes, device);
      },
      py::arg("layout"),
      py::arg("sizes"),
      py::arg("device"));
  m.def(
      "redistribution",
      [](const Layout& from,
         const Layout& to,
         const std::vector<int64_t>& sizes,
         int64_t itemsize) {
        return plan_redistribution(from, to, sizes, itemsize).str();
      },
      py::arg("source"),
      py::arg("to"),
      py::arg("sizes"),
      py::arg("itemsize"));
  m.def("cpu_memories_are_separate", &cpu_memories_are_separate);
  m.def("separate_cpu_memories", &separate_cpu_memories);
  m.def("set_memories_for_testing", &set_memories_for_testing);
  m.def(
      "refuse_to_communicate_for_testing", &refuse_to_communicate_for_testing);
  m.def("state_text", &state_text, py::arg("tensor"));
  m.def("compat_checks", [] {
    py::list checks;
    for (const CompatCheck& check : compat_checks()) {
      checks.append(
          py::make_tuple(
              check.name,
              check.source,
              py::cpp_function(
                  check.problem, py::call_guard<py::gil_scoped_release>())));
    }
    return checks;
  });
}

// Whether a program has the tensor in its hands: `x.to("mesh")` asks with a
// tensor of Python, which `torch.tensor(..., device="mesh")` does not. No
// Parameter is a batch.
bool is_held_by_python(const at::Tensor& tensor) {
  if (!tensor.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj()) {
    return false;
  }
  const py::gil_scoped_acquire gil;
  return !py::isinstance(
      py::cast(tensor), py::module_::import("torch.nn").attr("Parameter"));
}

void bind_tensors(py::module_& m) {
  using Release = py::call_guard<py::gil_scoped_release>;
  m.def("register_device", &register_device);
  m.def("current_mesh", &current_mesh);
  m.def("layout_in_force", &layout_in_force);
  m.def("layout_of_process", &layout_of_process);
  m.def("set_layout_of_process", &set_layout_of_process, py::arg("layout"));
  m.def("override_of_thread", &override_of_thread);
  m.def("set_override_of_thread", &set_override_of_thread, py::arg("layout"));
  m.def("pause_batches", &pause_batches);
  m.def("resume_batches", &resume_batches);
  m.def("batch_moves", [] {
    py::list moves;
    for (const BatchMove& move : last_moves()) {
      moves.append(
          py::make_tuple(move.sizes, move.dtype, move.layout, move.times));
    }
    return moves;
  });
  set_batch_judge(&is_held_by_python);
  m.def("is_global", &is_global, py::arg("tensor"));
  m.def("is_unwritten", &is_unwritten, py::arg("tensor"));
  m.def(
      "unwritten",
      [](const std::vector<int64_t>& sizes,
         const std::vector<int64_t>& strides,
         c10::ScalarType dtype,
         const Layout& layout) {
        check_layout(layout, sizes);
        return make_unwritten(layout, sizes, strides, dtype);
      },
      py::arg("sizes"),
      py::arg("strides"),
      py::arg("dtype"),
      py::arg("layout"));
  m.def(
      "layout_of",
      [](const at::Tensor& tensor) {
        TORCH_CHECK_VALUE(
            is_global(tensor),
            "layout: the tensor is on ",
            tensor.device(),
            ", not on the mesh.\nHint: use distribute first. [not-global]");
        return layout_of(tensor);
      },
      py::arg("tensor"));
  m.def(
      "distribute",
      &distribute,
      py::arg("tensor"),
      py::arg("layout"),
      Release());
  m.def(
      "redistribute",
      &redistribute,
      py::arg("tensor"),
      py::arg("layout"),
      Release());
  m.def(
      "change_layout",
      [](const at::Tensor& tensor, const Layout& layout) {
        check_layout(layout, tensor.sizes().vec());
        return change_layout(tensor, layout);
      },
      py::arg("tensor"),
      py::arg("layout"),
      Release());
  m.def("full", &full, py::arg("tensor"), Release());
  m.def("borrow", &borrow, py::arg("tensor"), py::arg("layout"), Release());
  m.def("shards", &shards, py::arg("tensor"), Release());
  m.def("read_only", &read_only, py::arg("tensor"));
  m.def("check_device_index", &check_device_index, py::arg("device"));
  m.def(
      "from_shards",
      [](const std::vector<std::optional<at::Tensor>>& shards,
         const Layout& layout) {
        std::vector<at::Tensor> parts;
        for (const std::optional<at::Tensor>& shard : shards) {
          parts.push_back(shard.value_or(at::Tensor()));
        }
        return from_shards(parts, layout);
      },
      py::arg("shards"),
      py::arg("layout"),
      Release());
  m.def(
      "reduce_partials",
      [](const std::vector<at::Tensor>& tensors) { reduce_partials(tensors); },
      py::arg("tensors"),
      Release());
}

void bind_rules(py::module_& m) {
  m.def(
      "register_rule",
      [](const std::string& name, const std::string& text) {
        register_rule(name, text);
      },
      py::arg("name"),
      py::arg("text"));
  m.def("rule_names", &rule_names);
  m.def(
      "rule_text",
      [](const std::string& name) -> std::optional<std::string> {
        const auto rule = find_rule(name);
        return rule ? std::optional(rule->str()) : std::nullopt;
      },
      py::arg("name"));
  m.def(
      "start_explaining",
      &start_explaining,
      py::arg("with_instructions") = false);
  m.def("stop_explaining", &stop_explaining);
  m.def("clear_plans", &clear_plans);
}

void bind_counters(py::module_& m) {
  py::class_<CollectiveEvent>(m, "CollectiveEvent")
      .def_readonly("kind", &CollectiveEvent::kind)
      .def_readonly("axis", &CollectiveEvent::axis)
      .def_readonly("num_bytes", &CollectiveEvent::num_bytes)
      .def_readonly("op", &CollectiveEvent::op);
  py::class_<Counts>(m, "Counts")
      .def_readonly("collectives", &Counts::collectives)
      .def_readonly("num_bytes", &Counts::num_bytes)
      .def_readonly(
          "num_bytes_between_processes", &Counts::num_bytes_between_processes)
      .def_readonly("calls", &Counts::calls)
      .def_readonly("received", &Counts::received)
      .def_readonly("moved", &Counts::moved)
      .def_readonly("replicated_ops", &Counts::replicated_ops)
      .def_readonly("ops", &Counts::ops)
      .def_readonly("plans_made", &Counts::plans_made);
  m.def(
      "counts",
      [] {
        finish_background();  // of which some is to be counted yet
        return counts();
      },
      py::call_guard<py::gil_scoped_release>());
  m.def("keep_events", &keep_events);
  m.def("events_since", &events_since, py::arg("since"));
  m.def("release_events", &release_events);
  m.def("log_level", &log_level);
  m.def("log_line", &log_line, py::arg("text"));
  m.def("set_log_level", &set_log_level, py::arg("level"));
}

// Structures of torch that the engine reads differ from minor to minor.
void check_torch() {
  const auto running =
      py::module_::import("torch").attr("__version__").cast<std::string>();
  const std::string compiled = std::to_string(TORCH_VERSION_MAJOR) + "." +
                               std::to_string(TORCH_VERSION_MINOR);
  const bool is_alike = running.starts_with(compiled) &&
                        (running.size() == compiled.size() ||
                         !std::isdigit(running[compiled.size()]));
  if (!is_alike) {
    throw py::import_error(
        "the engine was compiled against torch " TORCH_VERSION ", and torch " +
        running + " is running");
  }
}

}  // namespace
}  // namespace torch_mesh

PYBIND11_MODULE(_C, m) {
  torch_mesh::check_torch();
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) {
        std::rethrow_exception(pointer);
      }
    } catch (const torch_mesh::CoreError& error) {
      torch_mesh::translate(error);
    } catch (const c10::ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what_without_backtrace());
    } catch (const c10::NotImplementedError& error) {
      PyErr_SetString(
          PyExc_NotImplementedError, error.what_without_backtrace());
    } catch (const c10::Error& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
    }
  });
  torch_mesh::bind_layouts(m);
  torch_mesh::bind_tensors(m);
  torch_mesh::bind_rules(m);
  torch_mesh::bind_counters(m);
  torch_mesh::bind_layout_map(m);
  torch_mesh::bind_blocks(m);
  torch_mesh::bind_job(m);
  torch_mesh::bind_job_for_testing(m);
  torch_mesh::bind_numpy(m);
  torch_mesh::bind_local_programs(m);
}

// job.cpp: torch.distributed's group brings the processes together; from then
// on they talk by transports of their own.

#include "python/job.h"

#include <charconv>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>

#include <pybind11/stl.h>

#include <torch_mesh/error.h>

#include "comm/c10d.h"
#include "comm/workspace.h"
#include "job/background.h"
#include "job/job.h"
#include "job/monitor.h"
#include "job/shared_memory.h"
#include "job/waiting.h"
#include "python/script_line.h"
#include "tensor/global_tensor.h"
#include "tensor/pending_sums.h"
#include "trace/counters.h"

namespace py = pybind11;

namespace torch_mesh {
namespace {

// What process 0 decides for all.
struct Decision {
  uint64_t id;             // of the job
  bool has_shared_memory;  // whether processes of one host may share any
  bool checks_calls;       // whether they compare each
};

Decision decided(Store& store, int process) {
  constexpr const char* kKey = "decision";
  if (process == 0) {
    std::random_device random;
    const uint64_t id = uint64_t{random()} << 32 | random();
    const char* transport = std::getenv("TORCH_MESH_TRANSPORT");
    const std::string name = transport ? transport : "";
    TORCH_MESH_CHECK_VALUE(
        name.empty() || name == "shared_memory" || name == "c10d",
        "transport-name",
        "initialize: TORCH_MESH_TRANSPORT=",
        shown(name),
        " names no transport.\n"
        "Hint: unset it, or set it to c10d, so that processes of one host do "
        "not share memory.");
    const char* check = std::getenv("TORCH_MESH_CHECK");
    const bool checks = check && std::string_view(check) == "1";
    store.set(
        kKey,
        std::to_string(id) + (name == "c10d" ? " 0" : " 1") +
            (checks ? "1" : "0"));
    return {id, name != "c10d", checks};
  }
  const std::string said = store.get(kKey, 0);
  Decision decision{0, false, false};
  const char* end = said.data() + said.size();
  const auto [rest, error] = std::from_chars(said.data(), end, decision.id);
  TORCH_MESH_CHECK_VALUE(
      error == std::errc() && end - rest == 3,
      "processes-differ",
      "initialize: process 0 says \"",
      shown(said),
      "\" of the job.\nHint: use the same release of torch-mesh in all "
      "processes.");
  decision.has_shared_memory = rest[1] == '1';
  decision.checks_calls = rest[2] == '1';
  return decision;
}

// Texts that processes leave each other, beside what moves on meshes.
struct Notes {
  std::mutex mutex;  // a store is asked by one thread at a time
  std::unique_ptr<Store> store;
};
Notes& notes() {
  static Notes& forever = *new Notes;
  return forever;
}

// What `ask` makes of the job's store. It counts as one op of this process, as
// the others see it.
//   process  whose word is waited for; -1: nobody's
template <typename Ask>
auto with_notes(const std::string& doing, int process, Ask ask) {
  const std::lock_guard lock(notes().mutex);
  TORCH_MESH_CHECK_VALUE(
      notes().store,
      "no-job",
      doing,
      ": this process is in no job.\nHint: call initialize() first.");
  Stamp stamp;
  stamp.set_text(doing);
  note_op(stamp, line_of_script());
  try {
    return ask(*notes().store);
  } catch (const CoreError& error) {
    if (std::string_view(error.code) == "peer-lost") {
      // It knows more than a store that is gone: who kept it, and whether that
      // one has left.
      wait_for_verdict(process, doing.c_str());
    }
    throw;
  }
}

void leave_note(
    const std::string& doing,
    const std::string& key,
    const std::string& text) {
  with_notes(doing, -1, [&](Store& store) {
    store.set("note/" + key, text);
    note_op_ended();
  });
}

py::bytes wait_for_note(
    const std::string& doing,
    const std::string& key,
    int process) {
  std::string text;
  {
    const py::gil_scoped_release release;
    text = with_notes(doing, process, [&](Store& store) {
      std::string said = store.get("note/" + key, process);
      note_op_ended();
      return said;
    });
  }
  return text;
}

void join_with(
    Store& store,
    const std::string& group_name,
    int process,
    int num_processes) {
  const Decision decision = decided(store, process);
  Job job;
  job.process = process;
  job.num_processes = num_processes;
  job.checks_calls = decision.checks_calls;
  job.transports.resize(num_processes);
  const std::shared_ptr<SharedMemory> memory =
      decision.has_shared_memory
          ? SharedMemory::open(store, process, num_processes, decision.id)
          : nullptr;
  std::shared_ptr<Transport> network;
  for (int other = 0; other < num_processes; ++other) {
    if (other == process) {
      continue;
    }
    if (memory && memory->serves(other)) {
      job.transports[other] = memory;
      continue;
    }
    if (!network) {
      network = c10d_transport(group_name, process, num_processes, decision.id);
    }
    job.transports[other] = network;
  }
  start_job(std::move(job));
  set_log_name(
      "process " + std::to_string(process) + " of " +
      std::to_string(num_processes) + ": ");
  const std::lock_guard lock(notes().mutex);
  notes().store = store.clone();
}

// Collective: each process of the group calls it once.
//
//   store_keeper  the process with which the store ends; -1: none of the job
//   prefix        of keys: a store may outlive the job, and hold another's
void join(
    const std::string& group_name,
    int process,
    int num_processes,
    int store_keeper,
    const std::string& prefix) {
  const std::unique_ptr<Store> store = store_of_group(group_name, prefix);
  // First: a process that dies in what follows is found as any other.
  MonitorSettings settings = MonitorSettings::of_environment();
  settings.store_keeper = store_keeper;
  start_monitor(store->clone(), process, num_processes, settings);
  try {
    join_with(*store, group_name, process, num_processes);
  } catch (const std::exception& error) {
    report_failure(error.what());
    stop_monitor();
    throw;
  }
}

// The gradients of these parameters that are sums over axes of which none cuts
// the parameter: those are to be scattered, by who updates it.
void begin_reductions_of(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  std::vector<AxisMask> axes;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& gradient = parameter.grad();
    if (gradient.defined() && is_global(gradient) && is_global(parameter)) {
      gradients.push_back(gradient);
      axes.push_back(
          layout_of(gradient).partial_axes() &
          ~layout_of(parameter).sharded_axes());
    }
  }
  begin_reductions(gradients, axes);
}

void leave() {
  end_background();
  end_job();
  set_log_name("");
  stop_monitor();
  {
    // A thread that waits in it keeps it.
    const std::unique_lock lock(notes().mutex, std::try_to_lock);
    if (lock) {
      notes().store.reset();
    }
  }
  free_workspaces();
}

// Ctrl-C is seen where Python looks for it: on its main thread.
void look_for_signals(int /*process*/) {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) {
    throw py::error_already_set();
  }
}

}  // namespace

void bind_job(py::module_& m) {
  set_interrupt_hook(&look_for_signals);
  set_line_hook(&script_line);
  using NoGil = py::call_guard<py::gil_scoped_release>;
  m.def(
      "start_job",
      [](const std::string& group_name,
         int process,
         int num_processes,
         int store_keeper,
         const std::string& prefix) {
        keep_script_thread();
        const py::gil_scoped_release release;
        join(group_name, process, num_processes, store_keeper, prefix);
      },
      py::arg("group_name"),
      py::arg("process"),
      py::arg("num_processes"),
      py::arg("store_keeper"),
      py::arg("prefix"));
  m.def("end_job", &leave, NoGil());
  m.def("job", []() -> std::optional<std::pair<int, int>> {
    const Job* job = current_job();
    if (!job) {
      return std::nullopt;
    }
    return std::pair(job->process, job->num_processes);
  });
  m.def(
      "begin_reductions_of",
      &begin_reductions_of,
      py::arg("parameters"),
      NoGil());
  m.def("finish_background", &finish_background, NoGil());
  m.def(
      "leave_note",
      &leave_note,
      py::arg("doing"),
      py::arg("key"),
      py::arg("text"),
      NoGil());
  m.def(
      "wait_for_note",
      &wait_for_note,
      py::arg("doing"),
      py::arg("key"),
      py::arg("process"));
  m.def("report_failure", &report_failure, py::arg("text"), NoGil());
  m.def("verdict", &verdict);
  m.def("set_wait_limit", &set_wait_limit, py::arg("seconds"));
}

}  // namespace torch_mesh

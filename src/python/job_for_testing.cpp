// job_for_testing.cpp: parts of a job by themselves.

#include "python/job_for_testing.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "comm/c10d.h"
#include "job/monitor.h"
#include "job/waiting.h"

namespace py = pybind11;

namespace torch_mesh {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

Stamp stamp_of(const std::string& text, uint64_t hash) {
  Stamp stamp;
  stamp.hash = hash;
  stamp.set_text(text);
  return stamp;
}

// A transport whose messages are of Python's bytes.
class C10dTransportForTesting {
 public:
  using Sends = std::vector<std::pair<int, py::bytes>>;
  using Receives = std::vector<std::pair<int, size_t>>;

  explicit C10dTransportForTesting(std::unique_ptr<Transport> transport)
      : transport_(std::move(transport)) {}

  // What came, run by run.
  py::list exchange(
      const std::string& text,
      uint64_t hash,
      const Sends& sends,
      const Receives& receives) {
    std::vector<Outgoing> outgoing;
    for (const auto& [process, bytes] : sends) {
      const auto view = static_cast<std::string_view>(bytes);
      outgoing.push_back({process, std::as_bytes(std::span(view))});
    }
    std::vector<std::string> results;
    for (const auto& [process, size] : receives) {
      results.emplace_back(size, '\0');
    }
    std::vector<Incoming> incoming;
    for (size_t i = 0; i < receives.size(); ++i) {
      incoming.push_back(
          {receives[i].first, std::as_writable_bytes(std::span(results[i]))});
    }
    {
      const py::gil_scoped_release release;
      transport_->begin(stamp_of(text, hash), outgoing, incoming);
      transport_->finish();
    }
    py::list list;
    for (const std::string& result : results) {
      list.append(py::bytes(result));
    }
    return list;
  }

  // Seconds of the fastest of `rounds` exchanges with one process.
  double seconds(int process, size_t size, int rounds) {
    const py::gil_scoped_release release;
    std::vector<std::byte> sent(size);
    std::vector<std::byte> received(size);
    const Outgoing outgoing[] = {{process, sent}};
    const Incoming incoming[] = {{process, received}};
    const Stamp stamp = stamp_of("measured", 1);
    std::chrono::duration<double> least{1e9};
    for (int i = 0; i < rounds; ++i) {
      const auto start = std::chrono::steady_clock::now();
      transport_->begin(stamp, outgoing, incoming);
      transport_->finish();
      least = std::min<std::chrono::duration<double>>(
          least, std::chrono::steady_clock::now() - start);
    }
    return least.count();
  }

 private:
  const std::unique_ptr<Transport> transport_;
};

}  // namespace

void bind_job_for_testing(py::module_& m) {
  py::class_<C10dTransportForTesting>(m, "C10dTransportForTesting")
      .def("exchange", &C10dTransportForTesting::exchange)
      .def("seconds", &C10dTransportForTesting::seconds);
  m.def(
      "c10d_transport_for_testing",
      [](const std::string& group, int process, int num, uint64_t job) {
        return std::make_unique<C10dTransportForTesting>(
            c10d_transport(group, process, num, job));
      });
  m.def(
      "start_monitor_for_testing",
      [](const std::string& group,
         int process,
         int num,
         double interval,
         double limit) {
        start_monitor(
            store_of_group(group, "torch_mesh"),
            process,
            num,
            {.interval = interval, .limit = limit});
      },
      Release());
  m.def("stop_monitor_for_testing", &stop_monitor, Release());
  m.def(
      "note_op_for_testing",
      [](const std::string& text, const std::string& line) {
        note_op(stamp_of(text, 0), line);
      });
  // Waits for `process` until something ends the wait.
  m.def(
      "wait_for_testing",
      [](int process) {
        for (const Wait wait(process);;) {
          wait.check("a test");
          std::this_thread::sleep_for(Wait::kSlice);
        }
      },
      Release());
  py::class_<Store>(m, "StoreForTesting")
      .def(
          "get",
          &Store::get,
          py::arg("key"),
          py::arg("process") = -1,
          Release());
  m.def(
      "store_of_group_for_testing",
      [](const std::string& group) {
        return store_of_group(group, "torch_mesh");
      },
      Release());
}

}  // namespace torch_mesh

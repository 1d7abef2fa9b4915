// runs.cpp: begins with all transports before it waits for one.

#include "job/runs.h"

#include <string_view>

#include <torch_mesh/error.h>

#include "job/monitor.h"

namespace torch_mesh {

void Runs::send(int process, std::span<const std::byte> bytes) {
  runs_[&transport_to(process)].out.push_back({process, bytes});
}

void Runs::receive(int process, std::span<std::byte> bytes) {
  runs_[&transport_to(process)].in.push_back({process, bytes});
}

void Runs::run(const Stamp& stamp) {
  note_op(stamp);
  try {
    for (const auto& [transport, of_it] : runs_) {
      transport->begin(stamp, of_it.out, of_it.in);
    }
    for (const auto& [transport, of_it] : runs_) {
      transport->finish();
    }
  } catch (const CoreError& error) {
    // Who finds that processes differ may be the only one who sees it.
    if (std::string_view(error.code) == "processes-differ") {
      report_failure(error.what());
    }
    throw;
  }
  note_op_ended();
}

}  // namespace torch_mesh

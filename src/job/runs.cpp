// runs.cpp: begins with all transports before it waits for one.

#include "job/runs.h"

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
  for (const auto& [transport, of_it] : runs_) {
    transport->begin(stamp, of_it.out, of_it.in);
  }
  for (const auto& [transport, of_it] : runs_) {
    transport->finish();
  }
  note_op_ended();
}

}  // namespace torch_mesh

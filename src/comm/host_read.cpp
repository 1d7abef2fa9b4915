// host_read.cpp: one message to and from the first process.

#include "comm/host_read.h"

#include <algorithm>
#include <map>
#include <vector>

#include "comm/held_locks.h"
#include "job/job.h"
#include "job/journal.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

constexpr size_t kMostBytes = 4096;

// Processes of a mesh in the order of its devices.
std::vector<int> processes_of(const Mesh& mesh) {
  std::vector<int> processes;
  for (const Device& device : mesh.devices()) {
    if (std::find(processes.begin(), processes.end(), device.process) ==
        processes.end()) {
      processes.push_back(device.process);
    }
  }
  return processes;
}

}  // namespace

at::Tensor agreed(const Mesh& mesh, const at::Tensor& value) {
  if (mesh.is_all_mine() || mesh.is_null()) {
    return value;
  }
  check_no_lock_is_held("a read by the host");
  const bool is_small =
      value.nbytes() != 0 && value.nbytes() <= kMostBytes && value.is_cpu();
  at::Tensor result = value;
  std::byte nothing[1] = {};
  std::span<std::byte> bytes = nothing;
  if (is_small) {
    result = value.clone(at::MemoryFormat::Contiguous);
    bytes = {static_cast<std::byte*>(result.mutable_data_ptr()),
             result.nbytes()};
  }
  const std::vector<int> processes = processes_of(mesh);
  const int first = processes[0];
  std::byte heard[1];  // of the others: that they are here
  std::map<Transport*, std::pair<std::vector<Outgoing>, std::vector<Incoming>>>
      runs;
  if (first != this_process()) {
    auto& [out, in] = runs[&transport_to(first)];
    out.push_back({first, nothing});
    in.push_back({first, bytes});
  } else {
    for (const int other : processes) {
      if (other != first) {
        auto& [out, in] = runs[&transport_to(other)];
        out.push_back({other, bytes});
        in.push_back({other, heard});
      }
    }
  }
  const Stamp stamp =
      note_step(mesh, "value for the host, in " + CurrentOp::name());
  for (const auto& [transport, of_it] : runs) {
    transport->begin(stamp, of_it.first, of_it.second);
  }
  for (const auto& [transport, of_it] : runs) {
    transport->finish();
  }
  return result;
}

std::vector<std::vector<int64_t>> numbers_of_devices(
    const Mesh& mesh,
    const std::vector<std::vector<int64_t>>& own) {
  std::vector<std::vector<int64_t>> all = own;
  if (mesh.is_all_mine()) {
    return all;
  }
  check_no_lock_is_held("a read by the host");
  struct Runs {
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
  };
  std::map<Transport*, Runs> runs;
  const std::vector<int> processes = processes_of(mesh);
  size_t count = 0;
  for (const std::vector<int64_t>& numbers : own) {
    count = std::max(count, numbers.size());
  }
  for (int device = 0; device < mesh.size(); ++device) {
    const int owner = mesh.devices()[device].process;
    if (owner != this_process()) {
      all[device].resize(count);
      runs[&transport_to(owner)].in.push_back(
          {owner, std::as_writable_bytes(std::span(all[device]))});
      continue;
    }
    for (const int other : processes) {
      if (other != owner) {
        runs[&transport_to(other)].out.push_back(
            {other, std::as_bytes(std::span(own[device]))});
      }
    }
  }
  const Stamp stamp = note_step(mesh, "sizes, in " + CurrentOp::name());
  for (const auto& [transport, of_it] : runs) {
    transport->begin(stamp, of_it.out, of_it.in);
  }
  for (const auto& [transport, of_it] : runs) {
    transport->finish();
  }
  return all;
}

}  // namespace torch_mesh

// host_read.cpp: one message to and from the first process.

#include "comm/host_read.h"

#include <algorithm>
#include <span>
#include <vector>

#include "comm/held_locks.h"
#include "job/journal.h"
#include "job/runs.h"
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

namespace {

// `bytes` of the first process come to all others; each of these says that it
// is here.
void spread(const Mesh& mesh, std::span<std::byte> bytes, const Stamp& stamp) {
  check_no_lock_is_held("a read by the host");
  std::byte here[1] = {};
  std::byte heard[1];
  const std::vector<int> processes = processes_of(mesh);
  const int first = processes[0];
  Runs runs;
  if (first != this_process()) {
    runs.send(first, here);
    runs.receive(first, bytes);
  } else {
    for (const int other : processes) {
      if (other != first) {
        runs.send(other, bytes);
        runs.receive(other, heard);
      }
    }
  }
  runs.run(stamp);
}

}  // namespace

void compare(const Mesh& mesh, const std::string& words) {
  if (mesh.is_all_mine() || mesh.is_null()) {
    return;
  }
  std::byte nothing[1] = {};
  spread(mesh, nothing, note_step(mesh, words));
}

at::Tensor agreed(const Mesh& mesh, const at::Tensor& value) {
  if (mesh.is_all_mine() || mesh.is_null()) {
    return value;
  }
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
  spread(
      mesh,
      bytes,
      note_step(mesh, "value for the host, in " + CurrentOp::name()));
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
  Runs runs;
  const std::vector<int> processes = processes_of(mesh);
  size_t count = 0;
  for (const std::vector<int64_t>& numbers : own) {
    count = std::max(count, numbers.size());
  }
  for (int device = 0; device < mesh.size(); ++device) {
    const int owner = mesh.devices()[device].process;
    if (owner != this_process()) {
      all[device].resize(count);
      runs.receive(owner, std::as_writable_bytes(std::span(all[device])));
      continue;
    }
    for (const int other : processes) {
      if (other != owner) {
        runs.send(other, std::as_bytes(std::span(own[device])));
      }
    }
  }
  runs.run(note_step(mesh, "sizes, in " + CurrentOp::name()));
  return all;
}

}  // namespace torch_mesh

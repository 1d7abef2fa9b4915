// capacity.cpp: asks the system as an allocator would, and gives it back.

#include "tensor/capacity.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include <sys/mman.h>

#include <c10/util/Exception.h>

#include "shard/local_ops.h"
#include "shard/span.h"

namespace torch_mesh {
namespace {

// Smaller ones fail where they are written, if at all.
constexpr size_t kLarge = size_t{1} << 30;

// No page of the mapping is touched: what counts is whether malloc, which maps
// large blocks in this way, would get one.
bool host_has(double num_bytes) {
  if (num_bytes >= static_cast<double>(std::numeric_limits<int64_t>::max())) {
    return false;
  }
  const auto size = static_cast<size_t>(num_bytes);
  void* mapping = mmap(
      nullptr,
      size,
      PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS,
      /*fd=*/-1,
      /*offset=*/0);
  if (mapping == MAP_FAILED) {
    return false;
  }
  munmap(mapping, size);
  return true;
}

double count(c10::IntArrayRef sizes) {
  double elements = 1;
  for (int64_t size : sizes) {
    elements *= static_cast<double>(size);
  }
  return elements;
}

}  // namespace

void check_capacity(
    const Layout& layout,
    c10::IntArrayRef sizes,
    size_t num_bytes,
    bool is_placed) {
  if (num_bytes < kLarge) [[likely]] {
    return;
  }
  const auto whole = static_cast<double>(num_bytes);
  const Mesh& mesh = layout.mesh();
  std::map<int, int> devices;      // a device of each memory
  std::map<int, double> elements;  // in each memory
  for (int device : layout.lanes().first_device) {
    elements[mesh.memory(device)] +=
        count(shard_sizes(layout, as_span(sizes), device));
    devices.try_emplace(mesh.memory(device), device);
  }
  for (const auto& [memory, device] : devices) {
    const double needed = is_placed
                              ? whole * (elements[memory] / count(sizes))
                              : whole / static_cast<double>(devices.size());
    TORCH_CHECK(
        !mesh.devices()[device].is_mine() ||
            torch_device(mesh.devices()[device]).type() != c10::kCPU ||
            host_has(needed),
        "can't allocate memory: a tensor of sizes ",
        sizes,
        " takes ",
        static_cast<uint64_t>(needed),
        " bytes of the memory of ",
        mesh.devices()[device].str(),
        ".\n  layout  ",
        layout.str(),
        "\nHint: make it smaller, or shard it over devices with memories of "
        "their own. [out-of-memory]");
  }
}

}  // namespace torch_mesh

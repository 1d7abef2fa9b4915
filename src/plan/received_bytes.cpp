// received_bytes.cpp: from sizes of shards and memories alone.

#include "plan/received_bytes.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/groups.h"
#include "core/shapes.h"

namespace torch_mesh {
namespace {

int64_t product(const std::vector<int64_t>& sizes) {
  return std::accumulate(
      sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

class Receiver {
 public:
  Receiver(
      const Step& step,
      const Layout& before,
      std::span<const int64_t> sizes)
      : step_(step), before_(before), mesh_(before.mesh()), sizes_(sizes) {}

  // Elements for a device that is the first of its lane after the step.
  int64_t numel(int device) const {
    return step_.kind == Step::Kind::kReduceScatter ? of_parts(device)
                                                    : of_shards(device);
  }

 private:
  int64_t of_parts(int device) const {
    const int64_t kept = product(shard_sizes(step_.after, sizes_, device));
    int64_t received = 0;
    for (int lane : parts_of(mesh_, step_.axis, before_.lanes(), device)) {
      const int from = before_.lanes().first_device[lane];
      received += is_elsewhere(from, device) ? kept : 0;
    }
    return received;
  }

  int64_t of_shards(int device) const {
    const int64_t n = mesh_.axis(step_.axis).size;
    int64_t received = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int from = mesh_.neighbour(device, step_.axis, i);
      if (!is_elsewhere(from, device)) {
        continue;
      }
      std::vector<int64_t> piece = shard_sizes(before_, sizes_, from);
      if (step_.kind == Step::Kind::kAllToAll) {
        int64_t& length = piece[step_.to.dim];
        length = cut_length(
            length, step_.to, n, mesh_.coordinate(device, step_.axis));
      }
      received += product(piece);
    }
    return received;
  }

  bool is_elsewhere(int from, int device) const {
    return mesh_.memory(from) != mesh_.memory(device);
  }

  const Step& step_;
  const Layout& before_;
  const Mesh& mesh_;
  const std::span<const int64_t> sizes_;
};

}  // namespace

std::vector<int64_t> numel_of_lanes(
    const Layout& layout,
    std::span<const int64_t> sizes) {
  std::vector<int64_t> numel;
  for (int device : layout.lanes().first_device) {
    numel.push_back(product(shard_sizes(layout, sizes, device)));
  }
  return numel;
}

std::vector<int64_t> received_bytes(
    const Step& step,
    const Layout& before,
    std::span<const int64_t> sizes,
    int64_t itemsize) {
  const Mesh& mesh = before.mesh();
  if (mesh.one_memory()) {
    return {};
  }
  std::vector<int64_t> received(mesh.size());
  if (step.kind == Step::Kind::kAllReduce) {
    received = received_in_rings(
        mesh, step.axis, before.sharded_axes(), numel_of_lanes(before, sizes));
  } else if (step.communicates()) {
    const Receiver receiver(step, before, sizes);
    for (int device : step.after.lanes().first_device) {
      received[device] = receiver.numel(device);
    }
  }
  for (int64_t& number : received) {
    number *= itemsize;
  }
  return received;
}

}  // namespace torch_mesh

// memory.cpp: the counters of <torch_mesh/memory.h>.

#include <torch_mesh/memory.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "tensor/held.h"

namespace torch_mesh {

std::atomic<int> num_memory_counters{0};

namespace {

using DeviceKey = std::pair<DeviceKind, int32_t>;
using Bytes = std::map<DeviceKey, int64_t>;

}  // namespace

struct CountingMemory::Session {
  Bytes start;
  Bytes peak;
};

struct HeldShards::Told {
  std::vector<std::pair<DeviceKey, int64_t>> bytes;
};

namespace {

struct State {
  std::mutex mutex;  // guards all that follows; a leaf of the lock order
  Bytes now;
  std::set<CountingMemory::Session*> sessions;
};

State& state() {
  static State* state = new State;
  return *state;
}

// The caller holds the mutex.
void add(const std::vector<std::pair<DeviceKey, int64_t>>& bytes, int sign) {
  for (const auto& [device, num_bytes] : bytes) {
    int64_t& now = state().now[device];
    now += sign * num_bytes;
    for (CountingMemory::Session* session : state().sessions) {
      int64_t& peak = session->peak.try_emplace(device, now - sign * num_bytes)
                          .first->second;
      peak = std::max(peak, now);
    }
  }
}

int64_t at_start(const Bytes& start, const DeviceKey& device) {
  const auto found = start.find(device);
  return found == start.end() ? 0 : found->second;
}

}  // namespace

CountingMemory::CountingMemory() : session_(new Session) {
  std::lock_guard lock(state().mutex);
  session_->start = state().now;
  state().sessions.insert(session_);
  ++num_memory_counters;
}

CountingMemory::~CountingMemory() {
  std::lock_guard lock(state().mutex);
  --num_memory_counters;
  state().sessions.erase(session_);
  delete session_;
}

HeldBytes CountingMemory::so_far() const {
  std::lock_guard lock(state().mutex);
  HeldBytes result;
  for (const auto& [device, peak] : session_->peak) {
    const std::string name = Device{device.first, device.second}.str();
    const int64_t start = at_start(session_->start, device);
    result.now[name] = state().now[device] - start;
    result.peak[name] = peak - start;
  }
  return result;
}

void HeldShards::tell(const Layout& layout, const Shards& shards) {
  auto told = std::make_unique<Told>();
  const Lanes& lanes = layout.lanes();
  const Mesh& mesh = layout.mesh();
  for (int device = 0; device < mesh.size() && !shards.empty(); ++device) {
    const at::Tensor& shard = shards[lanes.lane_of_device[device]];
    const Device& place = mesh.devices()[device];
    told->bytes.emplace_back(
        DeviceKey(place.kind, place.index),
        shard.numel() * static_cast<int64_t>(shard.itemsize()));
  }
  std::lock_guard lock(state().mutex);
  if (told_) {
    add(told_->bytes, -1);
    delete told_;
  }
  told_ = told.release();
  add(told_->bytes, +1);
}

void HeldShards::take_back() {
  std::lock_guard lock(state().mutex);
  add(told_->bytes, -1);
  delete told_;
  told_ = nullptr;
}

}  // namespace torch_mesh

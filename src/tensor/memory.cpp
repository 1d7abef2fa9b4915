// memory.cpp: the counters of <torch_mesh/memory.h>.

#include <torch_mesh/memory.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tensor/global_tensor.h"
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
  uint64_t begun = 0;  // that of the process: before all others
};

struct HeldShards::Told {
  std::vector<std::pair<DeviceKey, int64_t>> bytes;
  uint64_t told_at = 0;  // sessions that begun later do not count it
};

namespace {

struct State {
  std::mutex mutex;  // guards all that follows; a leaf of the lock order
  Bytes now;
  std::set<CountingMemory::Session*> sessions;
  uint64_t num_begun = 0;  // of sessions
  // That of memory_of_process, which never ends; nullptr before the first call.
  CountingMemory::Session* process = nullptr;
};

State& state() {
  static State* state = new State;
  return *state;
}

// What is counted is of this process alone.
std::string name_of(const DeviceKey& device) {
  const int process = device.first == DeviceKind::kNull ? 0 : this_process();
  return Device{device.first, device.second, process}.str();
}

// The caller holds the mutex.
void add(const std::vector<std::pair<DeviceKey, int64_t>>& bytes) {
  for (const auto& [device, num_bytes] : bytes) {
    int64_t& now = state().now[device];
    now += num_bytes;
    for (CountingMemory::Session* session : state().sessions) {
      int64_t& peak =
          session->peak.try_emplace(device, now - num_bytes).first->second;
      peak = std::max(peak, now);
    }
  }
}

// The caller holds the mutex. What was there before a session began is none of
// what was made since, and so is its end.
void take(
    const std::vector<std::pair<DeviceKey, int64_t>>& bytes,
    uint64_t told_at) {
  for (const auto& [device, num_bytes] : bytes) {
    int64_t& now = state().now[device];
    for (CountingMemory::Session* session : state().sessions) {
      int64_t& peak = session->peak.try_emplace(device, now).first->second;
      if (told_at < session->begun) {
        session->start[device] -= num_bytes;
        peak -= num_bytes;
      }
    }
    now -= num_bytes;
  }
}

// As `add`, of shards that were there before anybody counted: for all but the
// process they are none of what was made since. The caller holds the mutex.
void add_older(const std::vector<std::pair<DeviceKey, int64_t>>& bytes) {
  for (const auto& [device, num_bytes] : bytes) {
    int64_t& now = state().now[device];
    now += num_bytes;
    for (CountingMemory::Session* session : state().sessions) {
      int64_t& peak =
          session->peak.try_emplace(device, now - num_bytes).first->second;
      if (session == state().process) {
        peak = std::max(peak, now);
      } else {
        session->start[device] += num_bytes;
        peak += num_bytes;
      }
    }
  }
}

// Whether this thread tells of older shards.
thread_local bool is_telling_older = false;

// False if it has begun before.
bool start_counting_process() {
  std::lock_guard lock(state().mutex);
  if (state().process) {
    return false;
  }
  state().process = new CountingMemory::Session{state().now, state().now};
  state().sessions.insert(state().process);
  ++num_memory_counters;
  return true;
}

int64_t at_start(const Bytes& start, const DeviceKey& device) {
  const auto found = start.find(device);
  return found == start.end() ? 0 : found->second;
}

}  // namespace

CountingMemory::CountingMemory() : session_(new Session) {
  std::lock_guard lock(state().mutex);
  session_->start = state().now;
  session_->begun = ++state().num_begun;
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
    const std::string name = name_of(device);
    const int64_t start = at_start(session_->start, device);
    result.now[name] = state().now[device] - start;
    result.peak[name] = peak - start;
  }
  return result;
}

bool is_memory_counted() {
  std::lock_guard lock(state().mutex);
  return state().process != nullptr;
}

void reset_peak_memory() {
  std::lock_guard lock(state().mutex);
  if (state().process) {
    state().process->peak = state().now;
  }
}

HeldBytes memory_of_process(std::span<const at::Tensor> living) {
  if (start_counting_process()) {
    is_telling_older = true;
    for (const at::Tensor& tensor : living) {
      if (is_global(tensor)) {
        MeshStorage& storage = *MeshStorage::of(tensor);
        std::lock_guard lock(storage.mutex);
        storage.count_shards();
      }
    }
    is_telling_older = false;
  }
  std::lock_guard lock(state().mutex);
  HeldBytes result;
  for (const auto& [device, now] : state().now) {
    const std::string name = name_of(device);
    const Bytes& peak = state().process->peak;
    const auto found = peak.find(device);
    result.now[name] = now;
    result.peak[name] = found == peak.end() ? now : found->second;
  }
  return result;
}

void HeldShards::tell(const Layout& layout, const Shards& shards) {
  auto told = std::make_unique<Told>();
  const Lanes& lanes = layout.lanes();
  const Mesh& mesh = layout.mesh();
  for (int device = 0; device < mesh.size() && !shards.empty(); ++device) {
    const Shard& shard = shards[lanes.lane_of_device[device]];
    if (!shard.defined()) {  // another process counts it
      continue;
    }
    const Device& place = mesh.devices()[device];
    told->bytes.emplace_back(
        DeviceKey(place.kind, place.index), shard.num_bytes());
  }
  std::lock_guard lock(state().mutex);
  if (is_telling_older) {
    if (!told_) {
      told_ = told.release();
      add_older(told_->bytes);
    }
    return;
  }
  if (told_) {
    take(told_->bytes, told_->told_at);
    delete told_;
  }
  told_ = told.release();
  told_->told_at = state().num_begun;
  add(told_->bytes);
}

void HeldShards::take_back() {
  std::lock_guard lock(state().mutex);
  take(told_->bytes, told_->told_at);
  delete told_;
  told_ = nullptr;
}

}  // namespace torch_mesh

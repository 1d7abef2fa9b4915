// counters.cpp: process-wide counts behind one mutex, off the hot path.

#include "trace/counters.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <utility>

namespace torch_mesh {
namespace {

struct State {
  std::mutex mutex;  // guards all that follows; a leaf of the lock order
  Counts counts;
  int keepers = 0;
  std::string log_name;
};

State& state() {
  static State* state = new State;
  return *state;
}

// Counted on every op, so apart from the mutex.
std::atomic<int64_t> num_ops{0};

thread_local CurrentOp* current_op = nullptr;

int level_from_environment() {
  const char* text = std::getenv("TORCH_MESH_LOG");
  if (!text) {
    return 0;
  }
  const std::string_view level(text);
  return level == "debug" ? 2 : level == "info" ? 1 : 0;
}

std::atomic<int>& level() {
  static std::atomic<int> level{level_from_environment()};
  return level;
}

}  // namespace

Counts counts() {
  std::lock_guard lock(state().mutex);
  Counts copy;
  copy.collectives = state().counts.collectives;
  copy.num_bytes = state().counts.num_bytes;
  copy.num_bytes_between_processes = state().counts.num_bytes_between_processes;
  copy.received = state().counts.received;
  copy.calls = state().counts.calls;
  copy.moved = state().counts.moved;
  copy.replicated_ops = state().counts.replicated_ops;
  copy.plans_made = state().counts.plans_made;
  copy.ops = num_ops.load(std::memory_order_relaxed);
  return copy;
}

size_t keep_events() {
  std::lock_guard lock(state().mutex);
  ++state().keepers;
  return state().counts.events.size();
}

std::vector<CollectiveEvent> events_since(size_t since) {
  std::lock_guard lock(state().mutex);
  const auto& events = state().counts.events;
  return {events.begin() + static_cast<ptrdiff_t>(since), events.end()};
}

void release_events() {
  std::lock_guard lock(state().mutex);
  if (--state().keepers == 0) {
    state().counts.events.clear();
  }
}

void count_op() { num_ops.fetch_add(1, std::memory_order_relaxed); }

void count_plan() {
  std::lock_guard lock(state().mutex);
  ++state().counts.plans_made;
}

void count_replicated(const std::string& op) {
  bool first = false;
  {
    std::lock_guard lock(state().mutex);
    first = ++state().counts.replicated_ops[op] == 1;
  }
  if (first && log_level() >= 1) {
    log_line(op + " has no rule: computed on replicas");
  }
}

void count_collective(
    Step::Kind kind,
    const Mesh& mesh,
    int axis,
    int64_t num_bytes,
    const std::vector<int64_t>& received) {
  const std::string& axis_name = mesh.axis(axis).name;
  if (mesh.axis(axis).size < 2) {
    return;
  }
  const std::string key = std::string(name(kind)) + "@" + axis_name;
  if (log_level() >= 2) {
    log_line(
        CurrentOp::name() + ": " +
        text_of_collective(kind, mesh, axis, num_bytes));
  }
  if (current_op && current_op->collectives_) [[unlikely]] {
    current_op->collectives_->push_back(
        text_of_collective(kind, mesh, axis, num_bytes));
  }
  std::lock_guard lock(state().mutex);
  ++state().counts.collectives[key];
  state().counts.num_bytes[key] += num_bytes;
  if (mesh.is_between_processes(axis)) {
    state().counts.num_bytes_between_processes[key] += num_bytes;
  }
  if (state().keepers > 0) {
    state().counts.events.push_back(
        {name(kind), axis_name, num_bytes, CurrentOp::name()});
  }
  for (size_t device = 0; device < received.size(); ++device) {
    if (received[device] != 0) {
      state().counts.received[mesh.devices()[device].str()] += received[device];
    }
  }
}

void count_step(const Step& step) {
  const Mesh& mesh = step.after.mesh();
  for (const Step::Part& part : step.parts) {
    count_collective(part.kind, mesh, part.axis, part.num_bytes, part.received);
  }
  if (step.communicates() && step.parts.empty()) {
    count_collective(step.kind, mesh, step.axis, step.num_bytes, step.received);
  }
}

void count_call(Step::Kind kind, const Mesh& mesh, int axis) {
  if (mesh.axis(axis).size < 2 || mesh.one_memory()) {
    return;
  }
  std::lock_guard lock(state().mutex);
  ++state().counts.calls[std::string(name(kind)) + "@" + mesh.axis(axis).name];
}

void count_call(const Step& step) {
  count_call(step.kind, step.after.mesh(), step.axis);
}

void count_moved(const Mesh& mesh, int device, int64_t num_bytes) {
  std::lock_guard lock(state().mutex);
  state().counts.moved[mesh.devices()[device].str()] += num_bytes;
}

CurrentOp::CurrentOp(const std::string& name)
    : name_(name), outer_(current_op) {
  current_op = this;
}

CurrentOp::~CurrentOp() { current_op = outer_; }

const std::string& CurrentOp::name() {
  static const std::string* none = new std::string("");
  return current_op ? current_op->name_ : *none;
}

void CurrentOp::listen(std::vector<std::string>* collectives) {
  if (current_op) {
    current_op->collectives_ = collectives;
  }
}

int log_level() { return level().load(std::memory_order_relaxed); }

void set_log_level(int new_level) {
  level().store(new_level, std::memory_order_relaxed);
}

void set_log_name(std::string name) {
  std::lock_guard lock(state().mutex);
  state().log_name = std::move(name);
}

void log_line(const std::string& text) {
  std::string line = "torch_mesh: ";
  {
    std::lock_guard lock(state().mutex);
    line += state().log_name;
  }
  line += text + "\n";
  // In one call, so that lines of other processes do not mix with it.
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace torch_mesh

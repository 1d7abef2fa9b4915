// explain.cpp: the list of lines.

#include "dispatch/explain.h"

#include <atomic>
#include <mutex>

#include "dispatch/op.h"

namespace torch_mesh {
namespace {

std::atomic<bool> explaining{false};
std::mutex mutex;  // guards `lines`; a leaf of the lock order

std::vector<std::string>& lines() {
  static auto* lines = new std::vector<std::string>;
  return *lines;
}

}  // namespace

void start_explaining() {
  std::lock_guard lock(mutex);
  lines().clear();
  explaining = true;
}

std::vector<std::string> stop_explaining() {
  std::lock_guard lock(mutex);
  explaining = false;
  return std::move(lines());
}

bool is_explaining() { return explaining.load(std::memory_order_relaxed); }

void explain_line(std::string line) {
  std::lock_guard lock(mutex);
  lines().push_back(std::move(line));
}

}  // namespace torch_mesh

// explain.cpp: the lists of lines.

#include "dispatch/explain.h"

#include <cstddef>
#include <utility>

#include <torch_mesh/error.h>

namespace torch_mesh {
namespace {

thread_local std::vector<std::string> lines;
thread_local std::vector<size_t> starts;  // of the listeners, the inner last

}  // namespace

void start_explaining() { starts.push_back(lines.size()); }

std::vector<std::string> stop_explaining() {
  TORCH_MESH_ASSERT(!starts.empty(), "nobody listens");
  const auto start = static_cast<ptrdiff_t>(starts.back());
  starts.pop_back();
  std::vector<std::string> heard(lines.begin() + start, lines.end());
  if (starts.empty()) {
    lines.clear();
  }
  return heard;
}

bool is_explaining() { return !starts.empty(); }

void explain_line(std::string line) { lines.push_back(std::move(line)); }

}  // namespace torch_mesh

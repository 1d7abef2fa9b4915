// explain.cpp: the lists of lines.

#include "trace/explain.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <utility>

#include <torch_mesh/error.h>

#include "trace/counters.h"

namespace torch_mesh {
namespace {

thread_local std::vector<std::string> lines;
thread_local std::vector<size_t> starts;  // of the listeners, the inner last
// Number of the outermost listener that wants instructions, from 1.
thread_local size_t first_with_instructions = SIZE_MAX;
thread_local ExplainedOp* innermost = nullptr;

// Takes one mention of a collective out of the text; false if there is none.
bool take_out(std::string& text, const std::string& collective) {
  const size_t at = text.find(collective);
  if (at == std::string::npos) {
    return false;
  }
  text.erase(at, collective.size());
  return true;
}

// Those that the line does not name.
std::string unnamed(
    std::string line,
    const std::vector<std::string>& collectives) {
  std::string text;
  for (const std::string& collective : collectives) {
    if (!take_out(line, collective)) {
      text += (text.empty() ? "" : ", ") + collective;
    }
  }
  return text;
}

}  // namespace

void start_explaining(bool with_instructions) {
  starts.push_back(lines.size());
  if (with_instructions) {
    first_with_instructions = std::min(first_with_instructions, starts.size());
  }
}

std::vector<std::string> stop_explaining() {
  TORCH_MESH_ASSERT(!starts.empty(), "nobody listens");
  const auto start = static_cast<ptrdiff_t>(starts.back());
  if (first_with_instructions == starts.size()) {
    first_with_instructions = SIZE_MAX;
  }
  starts.pop_back();
  std::vector<std::string> heard(lines.begin() + start, lines.end());
  if (starts.empty()) {
    lines.clear();
  }
  return heard;
}

bool is_explaining() { return !starts.empty(); }

ExplainedOp::ExplainedOp(std::string call)
    : call_(std::move(call)), place_(lines.size()), outer_(innermost) {
  innermost = this;
  CurrentOp::listen(&collectives_);
}

ExplainedOp::~ExplainedOp() {
  innermost = outer_;
  CurrentOp::listen(nullptr);
  if (!is_explaining()) {
    return;  // the op has ended the explanation
  }
  if (!has_line_) {
    const std::string all = unnamed("", collectives_);
    lines.insert(
        lines.begin() + static_cast<ptrdiff_t>(place_),
        all.empty() ? call_ : call_ + "  " + all);
  } else if (const std::string more = unnamed(lines[place_], collectives_);
             !more.empty()) {
    lines[place_] += "; " + more;
  }
  lines[place_] += instructions_;
}

void explain_line(std::string line) {
  if (innermost) {
    innermost->has_line_ = true;
  }
  lines.push_back(std::move(line));
}

bool is_explaining_instructions() {
  return starts.size() >= first_with_instructions;
}

void explain_instructions(const std::string& text) {
  if (!innermost) {
    return;
  }
  std::istringstream all(text);
  for (std::string line; std::getline(all, line);) {
    innermost->instructions_ += "\n    " + line;
  }
}

}  // namespace torch_mesh

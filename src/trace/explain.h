// explain.h: what ops do, one line each, while someone listens.

#pragma once

#include <string>
#include <vector>

namespace torch_mesh {

// From now on every op that this thread runs leaves a line: op, layouts, plan,
// and the collectives that no plan of its names. May be nested: what an inner
// listener hears the outer ones hear too.
//   with_instructions   below it what the op did, a line for each instruction
void start_explaining(bool with_instructions = false);
// Ends the innermost one, and gives its lines.
std::vector<std::string> stop_explaining();

bool is_explaining();

// While an op runs: keeps its line in front of those of the ops that it calls.
// Lives within the op's CurrentOp. Requires: is_explaining().
class ExplainedOp {
 public:
  // "aten::add.Tensor f32[8] (S0) f32[8] (R)".
  explicit ExplainedOp(std::string call);
  ~ExplainedOp();
  ExplainedOp(const ExplainedOp&) = delete;
  ExplainedOp& operator=(const ExplainedOp&) = delete;

 private:
  friend void explain_line(std::string line);
  friend void explain_instructions(const std::string& text);

  const std::string call_;
  const size_t place_;
  ExplainedOp* const outer_;
  bool has_line_ = false;
  std::vector<std::string> collectives_;
  std::string instructions_;
};

// Says what the innermost op does; an op for which nobody says it says its
// collectives.
void explain_line(std::string line);

// Whether somebody listens for instructions; and those of the innermost op, a
// line each.
bool is_explaining_instructions();
void explain_instructions(const std::string& text);

}  // namespace torch_mesh

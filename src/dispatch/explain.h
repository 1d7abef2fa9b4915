// explain.h: what ops do, one line each, while someone listens.

#pragma once

#include <string>
#include <vector>

namespace torch_mesh {

// From now on every op that this thread runs leaves a line: op, layouts, plan.
// May be nested: what an inner listener hears the outer ones hear too.
void start_explaining();
// Ends the innermost one, and gives its lines.
std::vector<std::string> stop_explaining();

bool is_explaining();
void explain_line(std::string line);

// Empties all plan caches.
void clear_plans();

}  // namespace torch_mesh

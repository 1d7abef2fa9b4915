// explain.h: what ops do, one line each, while someone listens.

#pragma once

#include <string>
#include <vector>

namespace torch_mesh {

// From now on every op that runs leaves a line: op, layouts, plan.
// Threads: any; lines of all threads go to one list.
void start_explaining();
// Stops, and gives the lines.
std::vector<std::string> stop_explaining();

bool is_explaining();
void explain_line(std::string line);

// Empties all plan caches.
void clear_plans();

}  // namespace torch_mesh

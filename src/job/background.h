// background.h: what a process communicates while its program goes on.
//
// Tasks run one after the other, on one thread, in the order of their
// beginning. No other thread communicates before all that was begun has ended,
// so the messages of a process have one order: that of its program.

#pragma once

#include <functional>

namespace torch_mesh {

// Returns at once. The task must not throw; it may communicate.
// Threads: those of one program, which begins tasks in the same order in each
// process.
void begin_in_background(std::function<void()> task);

// Returns when all that was begun has ended; at once on the thread of the tasks
// itself. Throws what Ctrl-C makes of it, and what ends the job (waiting.h).
// Requires: no lock that a task takes; not Python's either.
void finish_background();

// Whether this is the thread of the tasks.
bool is_in_background();

}  // namespace torch_mesh

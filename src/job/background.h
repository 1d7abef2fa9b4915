// background.h: what a process communicates while its program goes on.
//
// Tasks run one after the other, on one thread, in the order of their
// beginning. No other thread communicates before all that was begun has ended,
// so the messages of a process have one order: that of its program.

#pragma once

#include <atomic>
#include <functional>

namespace torch_mesh {

// Returns at once. The task must not throw; it may communicate. It is freed by
// one of the threads that begin and finish tasks: what it holds may need
// Python's lock, which those may hold while they wait.
// Threads: those of one program, which begins tasks in the same order in each
// process.
void begin_in_background(std::function<void()> task);

// Returns when all that was begun has ended; at once on the thread of the tasks
// itself. Throws what Ctrl-C makes of it, and what ends the job (waiting.h).
// Requires: no lock that a task takes.
void finish_background();
// The same, and nothing but the tasks' own ends ends it: for who takes away
// what they use. They end once the job does (waiting.h).
void end_background() noexcept;
// Those that have not ended.
extern constinit std::atomic<int> num_background_tasks;
inline bool background_is_busy() {
  return num_background_tasks.load(std::memory_order_acquire) != 0;
}

// Whether this is the thread of the tasks.
bool is_in_background();

}  // namespace torch_mesh

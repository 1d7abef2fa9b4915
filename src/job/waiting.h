// waiting.h: how long a process waits for another one, and what ends a wait.

#pragma once

#include <chrono>

namespace torch_mesh {

// Seconds that a process waits for another one in a collective; 0: without end.
// Default 1800. Throws [process-timeout] if it is negative or no number.
void set_wait_limit(double seconds);
double wait_limit();

// What is asked, about every 50 ms, by each thread that waits. May throw, to
// end the wait; others replace it. None: nullptr.
//
//   process  whom the thread waits for; -1: nobody in particular
using WaitHook = void (*)(int process);
// Whether the job goes on: throws [peer-lost] or [peer-failed] once a process
// is known to be lost.
void set_verdict_hook(WaitHook hook);
// Whether the user wants the program to end: throws what Ctrl-C makes of it.
void set_interrupt_hook(WaitHook hook);

// A wait for another process, from its making on.
class Wait {
 public:
  // How long to sleep before it is asked again.
  static constexpr std::chrono::milliseconds kSlice{50};

  explicit Wait(int process);
  // Returns if it is worth going on. Throws what the hooks throw, and
  // [peer-late], as CoreError, beyond the limit: names the process that is late
  // (Judge::late), what it did last, the time, and how to change it.
  //
  //   doing  what this process waits in, for the message
  void check(const char* doing) const;

 private:
  const int process_;
  const std::chrono::steady_clock::time_point start_;
};

}  // namespace torch_mesh

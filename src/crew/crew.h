// crew.h: threads that share out the tasks of a step, the caller among them.
//
// A step is phases, one after the other; the tasks of a phase may run at the
// same time, each on whoever claims it first. So a step never waits for a
// thread that the machine does not run: where a core is taken, the caller does
// the tasks alone, at the speed of one thread. No task may wait for another.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace torch_mesh {

class Crew {
 public:
  // A task of a phase, both counted from 0.
  using Task = std::function<void(int phase, int task)>;

  // What a phase may have: a claim is one atomic word.
  static constexpr int kMaxTasks = (1 << 12) - 1;

  struct Options {
    // Threads beside the caller.
    int helpers = 1;
    // Called on each helper before its first task: it says how many threads
    // libraries may use inside of one. It must not throw.
    std::function<void()> on_start = nullptr;
    // How long a thread without a task waits awake before it sleeps, in ns.
    int64_t awake = 20'000;
    // For tests: called where another thread may come between. It may not
    // throw.
    std::function<void()> pause = nullptr;
  };

  explicit Crew(Options options);
  // Requires: no run() on another thread.
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Runs `task` for each task of each phase. A phase begins when all tasks of
  // the one before it have ended; what they have written it sees, and so does
  // the caller.
  //
  // If a task throws, those that have not begun are left out, and what was
  // thrown first is thrown here when the others have ended.
  //
  // Threads: any. The helpers serve one run() at a time: another one, and one
  // from inside of a task or in a forked child, has its tasks done by its
  // caller.
  //
  // Args: counts, the number of tasks of each phase; some may have none.
  // Returns: how many tasks helpers have run.
  // Throws: std::invalid_argument if a phase has more than kMaxTasks.
  int64_t run(std::span<const int> counts, const Task& task);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace torch_mesh

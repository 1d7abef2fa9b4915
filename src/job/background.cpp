// background.cpp: a queue, and a thread that is there from the first task on.

#include "job/background.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "job/waiting.h"

namespace torch_mesh {

// Changed under the mutex.
constinit std::atomic<int> num_background_tasks{0};

namespace {

struct Tasks {
  std::mutex mutex;  // guards all that follows; a leaf of the lock order
  std::condition_variable begun;
  std::condition_variable ended;
  std::deque<std::function<void()>> waiting;
  std::vector<std::function<void()>> done;
  bool has_thread = false;
};

// Never destroyed: the thread outlives static destruction.
Tasks& tasks() {
  static auto& tasks = *new Tasks;
  return tasks;
}

thread_local bool runs_tasks = false;

[[noreturn]] void run_tasks() {
  runs_tasks = true;
  Tasks& all = tasks();
  std::unique_lock lock(all.mutex);
  for (;;) {
    all.begun.wait(lock, [&] { return !all.waiting.empty(); });
    std::function<void()> task = std::move(all.waiting.front());
    all.waiting.pop_front();
    lock.unlock();
    task();
    lock.lock();
    all.done.push_back(std::move(task));
    --num_background_tasks;
    all.ended.notify_all();
  }
}

// Frees those that have ended.
void free_done() {
  Tasks& all = tasks();
  std::unique_lock lock(all.mutex);
  const std::vector<std::function<void()>> done = std::exchange(all.done, {});
  lock.unlock();
}

}  // namespace

void begin_in_background(std::function<void()> task) {
  free_done();
  Tasks& all = tasks();
  const std::lock_guard lock(all.mutex);
  if (!all.has_thread) {
    std::thread(&run_tasks).detach();
    all.has_thread = true;
  }
  ++num_background_tasks;
  all.waiting.push_back(std::move(task));
  all.begun.notify_one();
}

bool is_in_background() { return runs_tasks; }

void finish_background() {
  if (runs_tasks || !background_is_busy()) {
    return;
  }
  Tasks& all = tasks();
  std::unique_lock lock(all.mutex);
  while (background_is_busy()) {
    all.ended.wait_for(lock, Wait::kSlice);
    lock.unlock();
    // The limit of a wait is that of the task's own.
    Wait(-1).check("what goes on in the background");
    lock.lock();
  }
  lock.unlock();
  free_done();
}

void end_background() noexcept {
  Tasks& all = tasks();
  std::unique_lock lock(all.mutex);
  all.ended.wait(lock, [] { return !background_is_busy(); });
  lock.unlock();
  free_done();
}

}  // namespace torch_mesh

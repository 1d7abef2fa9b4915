// background.cpp: a queue, and a thread that is there from the first task on.

#include "job/background.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "job/waiting.h"

namespace torch_mesh {
namespace {

struct Tasks {
  std::mutex mutex;  // guards all that follows; a leaf of the lock order
  std::condition_variable begun;
  std::condition_variable ended;
  std::deque<std::function<void()>> waiting;
  bool has_thread = false;
  // Those that wait, and the one that runs; read without the mutex.
  std::atomic<int> num{0};
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
    task = nullptr;  // what it holds is freed without the mutex
    lock.lock();
    --all.num;
    all.ended.notify_all();
  }
}

}  // namespace

void begin_in_background(std::function<void()> task) {
  Tasks& all = tasks();
  const std::lock_guard lock(all.mutex);
  if (!all.has_thread) {
    std::thread(&run_tasks).detach();
    all.has_thread = true;
  }
  ++all.num;
  all.waiting.push_back(std::move(task));
  all.begun.notify_one();
}

bool is_in_background() { return runs_tasks; }

void finish_background() {
  Tasks& all = tasks();
  if (runs_tasks || all.num.load(std::memory_order_acquire) == 0) {
    return;
  }
  std::unique_lock lock(all.mutex);
  while (all.num != 0) {
    all.ended.wait_for(lock, Wait::kSlice);
    lock.unlock();
    // The limit of a wait is that of the task's own.
    Wait(-1).check("what goes on in the background");
    lock.lock();
  }
}

}  // namespace torch_mesh

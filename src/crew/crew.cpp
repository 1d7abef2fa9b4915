#include "crew/crew.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace torch_mesh {
namespace {

// What there is to claim: a phase by its number among all phases that this crew
// has ever run, how many tasks it has, and which is the next. One word, so that
// who claims a task cannot have the count of one phase and the task of another.
struct Word {
  uint64_t epoch = 0;
  uint64_t count = 0;
  uint64_t next = 0;

  static constexpr int kBits = 12;
  static constexpr uint64_t kMask = (1 << kBits) - 1;

  static Word of(uint64_t bits) {
    return {bits >> (2 * kBits), (bits >> kBits) & kMask, bits & kMask};
  }
  uint64_t bits() const { return epoch << (2 * kBits) | count << kBits | next; }
  bool has_task() const { return next < count; }
};
static_assert(Crew::kMaxTasks == Word::kMask);

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// On different cache lines: what threads write at different times.
constexpr size_t kApart = 128;

}  // namespace

class Crew::State {
 public:
  explicit State(Options options)
      : options_(std::move(options)), process_(getpid()) {
    threads_.reserve(options_.helpers);
    try {
      for (int i = 0; i < options_.helpers; ++i) {
        threads_.emplace_back([this] { help(); });
      }
    } catch (const std::system_error&) {
      // No more threads are to be had: those that there are, and the caller,
      // do.
    }
  }

  ~State() {
    if (is_forked()) {
      // They do not live here, and cannot be joined.
      new std::vector<std::thread>(std::move(threads_));
      return;
    }
    is_over_.store(true, std::memory_order_relaxed);
    ring();
    for (std::thread& thread : threads_) {
      thread.join();
    }
  }

  int64_t run(std::span<const int> counts, const Task& task) {
    if (is_forked() || is_running_.exchange(true, std::memory_order_acquire)) {
      run_alone(counts, task);
      return 0;
    }
    counts_ = counts;
    task_ = &task;
    first_ = Word::of(claim_.load(std::memory_order_relaxed)).epoch + 1;
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    by_helpers_.store(0, std::memory_order_relaxed);
    is_done_.store(false, std::memory_order_relaxed);
    open(0);
    const auto is_done = [this] {
      return is_done_.load(std::memory_order_acquire);
    };
    while (!is_done()) {
      if (!work(/*is_helper=*/false)) {
        wait_until([&] { return is_done() || has_task(); });
      }
    }
    const std::exception_ptr error = std::exchange(error_, nullptr);
    const int64_t by_helpers = by_helpers_.load(std::memory_order_relaxed);
    is_running_.store(false, std::memory_order_release);
    if (error) {
      std::rethrow_exception(error);
    }
    return by_helpers;
  }

 private:
  bool is_forked() const { return getpid() != process_; }

  static void run_alone(std::span<const int> counts, const Task& task) {
    for (int phase = 0; phase < static_cast<int>(counts.size()); ++phase) {
      for (int i = 0; i < counts[phase]; ++i) {
        task(phase, i);
      }
    }
  }

  void help() {
    if (options_.on_start) {
      options_.on_start();
    }
    const auto is_over = [this] {
      return is_over_.load(std::memory_order_relaxed);
    };
    while (!is_over()) {
      if (!work(/*is_helper=*/true)) {
        wait_until([&] { return is_over() || has_task(); });
      }
    }
  }

  bool has_task() const {
    return Word::of(claim_.load(std::memory_order_acquire)).has_task();
  }

  // Claims a task and runs it. Returns false if there is none.
  bool work(bool is_helper) {
    uint64_t bits = claim_.load(std::memory_order_acquire);
    pause();
    Word word = Word::of(bits);
    while (word.has_task() && !claim_.compare_exchange_weak(
                                  bits,
                                  bits + 1,
                                  std::memory_order_acq_rel,
                                  std::memory_order_acquire)) {
      pause();
      word = Word::of(bits);
    }
    if (!word.has_task()) {
      return false;
    }
    // From here on the step cannot end: it counts this task.
    pause();
    const int phase = static_cast<int>(word.epoch - first_);
    run_claimed(phase, static_cast<int>(word.next), is_helper);
    pause();
    const auto ended = ended_.fetch_add(1, std::memory_order_acq_rel) + 1;
    if (ended == word.count) {
      pause();
      open(phase + 1);
    }
    return true;
  }

  void run_claimed(int phase, int task, bool is_helper) {
    if (failed_.load(std::memory_order_relaxed)) {
      return;
    }
    if (is_helper) {
      by_helpers_.fetch_add(1, std::memory_order_relaxed);
    }
    try {
      (*task_)(phase, task);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) {
        error_ = std::current_exception();  // read when all tasks have ended
      }
    }
  }

  // Opens the phase, or the first behind it that has tasks; ends the step
  // behind the last. Called by one thread at a time: by who begins the step,
  // then by who ends the last task of a phase.
  void open(int phase) {
    const int num_phases = static_cast<int>(counts_.size());
    while (phase < num_phases && counts_[phase] == 0) {
      ++phase;
    }
    Word word;
    word.epoch = first_ + phase;
    if (phase == num_phases || failed_.load(std::memory_order_relaxed)) {
      claim_.store(word.bits(), std::memory_order_release);
      is_done_.store(true, std::memory_order_release);
      ring();
      return;
    }
    word.count = counts_[phase];
    ended_.store(0, std::memory_order_relaxed);
    claim_.store(word.bits(), std::memory_order_release);
    if (word.count > 1) {
      ring();  // a single one is for the thread that is here
    }
  }

  // Wakes who sleeps.
  void ring() {
    bell_.fetch_add(1);
    bell_.notify_all();
  }

  // Returns when `is_so`, of which ring() tells.
  template <typename Condition>
  void wait_until(const Condition& is_so) {
    using Clock = std::chrono::steady_clock;
    const auto until = Clock::now() + std::chrono::nanoseconds(options_.awake);
    do {
      for (int i = 0; i < 32; ++i) {
        if (is_so()) {
          return;
        }
        pause_briefly();
      }
    } while (Clock::now() < until);
    while (true) {
      const uint32_t heard = bell_.load();
      if (is_so()) {
        return;
      }
      bell_.wait(heard);
    }
  }

  void pause() const {
    if (options_.pause) [[unlikely]] {
      options_.pause();
    }
  }

  const Options options_;
  const pid_t process_;
  std::vector<std::thread> threads_;
  std::atomic<bool> is_running_{false};

  // Of the step: written by who begins it, before it opens the first phase.
  std::span<const int> counts_;
  const Task* task_ = nullptr;
  uint64_t first_ = 0;  // epoch of its first phase
  std::exception_ptr error_;

  alignas(kApart) std::atomic<uint64_t> claim_{0};
  alignas(kApart) std::atomic<uint64_t> ended_{0};  // tasks of the open phase
  std::atomic<bool> failed_{false};
  std::atomic<int64_t> by_helpers_{0};
  alignas(kApart) std::atomic<uint32_t> bell_{0};
  std::atomic<bool> is_done_{false};
  std::atomic<bool> is_over_{false};
};

Crew::Crew(Options options)
    : state_(std::make_unique<State>(std::move(options))) {}

Crew::~Crew() = default;

int64_t Crew::run(std::span<const int> counts, const Task& task) {
  for (const int count : counts) {
    if (count < 0 || count > kMaxTasks) {
      throw std::invalid_argument(
          "Crew::run: a phase has 0 to " + std::to_string(kMaxTasks) +
          " tasks, got " + std::to_string(count));
    }
  }
  return state_->run(counts, task);
}

}  // namespace torch_mesh

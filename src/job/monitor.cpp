// monitor.cpp: a thread that beats, and one that watches it.

#include "job/monitor.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

#include <torch_mesh/error.h>

#include "job/waiting.h"

namespace torch_mesh {
namespace {

using Clock = std::chrono::steady_clock;
using Lock = std::unique_lock<std::mutex>;

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

// What this process did last. Longer than any monitor, so that to note an op
// asks for none.
struct Noted {
  std::mutex mutex;
  uint64_t begun = 0;
  uint64_t ended = 0;
  Stamp stamp;
  std::string line;
};
Noted& noted() {
  static Noted& forever = *new Noted;
  return forever;
}

std::atomic<std::string (*)()> line_hook{nullptr};

class Monitor {
 public:
  Monitor(
      std::unique_ptr<Store> store,
      int process,
      int num_processes,
      const MonitorSettings& settings)
      : settings_(settings),
        process_(process),
        num_processes_(num_processes),
        store_(std::move(store)),
        judge_(process, num_processes, settings) {}

  void start(const std::shared_ptr<Monitor>& self) {
    beater_ = std::thread([self] { self->beat(); });
    watcher_ = std::thread([self] { self->watch(); });
  }
  void stop();
  void report(std::string_view text);
  int note_late(int awaited);
  void note_difference() {
    const Lock lock(mutex_);
    blame(-1, Why::kDiffers);
  }
  // Throws why nobody should wait for `process`, if there is a reason.
  void check(int process);

  // What `question` makes of the judge, who knows `process`.
  template <typename Question>
  auto ask(int process, Question question) {
    const Lock lock(mutex_);
    TORCH_MESH_ASSERT(
        process >= 0 && process < num_processes_, "no process ", process);
    return question(judge_);
  }
  std::optional<Verdict> verdict() {
    const Lock lock(mutex_);
    return judge_.verdict();
  }
  // Seconds; 0 if there will be none.
  double verdict_within() const {
    return settings_.limit > 0 ? settings_.limit + 2 * settings_.interval : 0;
  }

  // Whether `check` has anything to say.
  std::atomic<bool> is_alarmed{false};

 private:
  void beat();
  void watch();
  bool exchange();
  void wait_for_readers();
  Beat own_beat(Lock& lock);
  // Why this process fails, if it does and there is no verdict.
  void blame(int process, Why why) {
    cause_ = process;
    why_ = why;
  }
  std::vector<std::string> keys();
  void publish(Lock& lock);

  const MonitorSettings settings_;
  const int process_;
  const int num_processes_;
  // The beater's.
  const std::unique_ptr<Store> store_;
  std::vector<int> nameless_;

  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  Judge judge_;
  Beat::State state_ = Beat::State::kRunning;
  std::string failure_;
  int cause_ = -1;
  Why why_ = Why::kLost;
  uint64_t num_beats_ = 0;
  int num_beats_without_keeper_ = 0;  // since the store's process has left
  bool is_urgent_ = false;            // do not wait for the next interval
  bool is_stopping_ = false;
  bool is_written_ = false;  // the verdict, to stderr
  bool has_beater_ended_ = false;
  bool has_watcher_ended_ = false;

  std::thread beater_;
  std::thread watcher_;
};

// "host x, pid 123".
std::string own_name() {
  char host[64] = {};
  if (gethostname(host, sizeof host - 1) != 0) {
    host[0] = '?';
  }
  return "host " + std::string(host) + ", pid " + std::to_string(getpid());
}

Beat Monitor::own_beat(Lock&) {
  Beat beat;
  beat.number = num_beats_ + 1;
  beat.state = state_;
  beat.failure = failure_;
  beat.cause = cause_;
  beat.why = why_;
  Noted& last = noted();
  const Lock lock(last.mutex);
  beat.begun = last.begun;
  beat.ended = last.ended;
  beat.hash = last.stamp.hash;
  beat.op = last.stamp.text;
  beat.line = last.line;
  return beat;
}

// Of all beats, then of the names that are not known yet.
std::vector<std::string> Monitor::keys() {
  std::vector<std::string> keys;
  for (int i = 0; i < num_processes_; ++i) {
    keys.push_back("beat/" + std::to_string(i));
  }
  for (const int i : nameless_) {
    keys.push_back("name/" + std::to_string(i));
  }
  return keys;
}

// A round trip. False if the store failed.
bool Monitor::exchange() {
  std::string text;
  bool is_first;
  {
    Lock lock(mutex_);
    const int keeper = settings_.store_keeper;
    if (keeper >= 0 && judge_.left(keeper) && ++num_beats_without_keeper_ > 1) {
      // It has seen one beat more, and goes with the store. A call into that
      // would have c10d write to stderr.
      judge_.store_failed("");
      publish(lock);
      return false;
    }
    is_first = num_beats_ == 0;
    is_urgent_ = false;
    text = own_beat(lock).str();
  }
  std::vector<std::optional<std::string>> values;
  bool is_there = true;
  std::string error;
  try {
    if (is_first) {
      store_->set("name/" + std::to_string(process_), own_name());
    }
    store_->set("beat/" + std::to_string(process_), text);
    values = store_->try_get(keys());
  } catch (const CoreError&) {  // which says no more than the verdict
    is_there = false;
  } catch (const std::exception& e) {
    is_there = false;
    error = e.what();
  }
  Lock lock(mutex_);
  if (!is_there) {
    judge_.store_failed(error);
    publish(lock);
    return false;
  }
  for (size_t i = 0; i < nameless_.size(); ++i) {
    if (const auto& name = values[num_processes_ + i]) {
      judge_.set_name(nameless_[i], *name);
    }
  }
  std::erase_if(nameless_, [&](int i) { return judge_.has_name(i); });
  values.resize(num_processes_);
  ++num_beats_;
  const int before = judge_.num_running();
  judge_.heard(Clock::now(), values);
  // One that ends waits until the others have read it (wait_for_readers).
  is_urgent_ |= judge_.num_running() < before;
  publish(lock);
  return true;
}

void Monitor::publish(Lock&) {
  changed_.notify_all();
  const std::optional<Verdict>& verdict = judge_.verdict();
  if (!is_written_ && verdict && state_ == Beat::State::kRunning) {
    is_written_ = true;
    // One line, in one call, so that lines of other processes do not mix.
    std::string line = verdict->text.substr(0, verdict->text.find("\nHint:"));
    for (size_t at = 0; (at = line.find('\n', at)) != std::string::npos;) {
      line.replace(at, 1, ";");
    }
    line = "torch_mesh: " + line + " [" + code_of(verdict->why) + "]\n";
    [[maybe_unused]] const ssize_t done =
        write(STDERR_FILENO, line.data(), line.size());
  }
  is_alarmed = verdict || judge_.has_any_left();
}

void Monitor::beat() {
  for (int i = 0; i < num_processes_; ++i) {
    nameless_.push_back(i);
  }
  bool is_there = true;
  while (is_there) {
    // Asked before the beat: the last one says that this process leaves.
    bool is_last;
    {
      const Lock lock(mutex_);
      is_last = is_stopping_;
    }
    is_there = exchange();
    if (is_last) {
      break;
    }
    Lock lock(mutex_);
    changed_.wait_for(lock, nanoseconds(settings_.interval), [&] {
      return is_stopping_ || is_urgent_;
    });
  }
  const int keeper = settings_.store_keeper;
  if (is_there && process_ == (keeper < 0 ? 0 : keeper)) {
    wait_for_readers();
  }
  const Lock lock(mutex_);
  has_beater_ended_ = true;
  changed_.notify_all();
}

// The store goes with this process: the others must have read that it leaves.
// They read after each beat, so the second one from now shows that they have.
void Monitor::wait_for_readers() {
  std::vector<uint64_t> before;
  Lock lock(mutex_);
  for (int i = 0; i < num_processes_; ++i) {
    before.push_back(judge_.number(i));
  }
  auto do_all_know = [&] {
    const std::optional<Verdict>& verdict = judge_.verdict();
    for (int i = 0; i < num_processes_; ++i) {
      const bool is_awaited = i != process_ && before[i] > 0 &&
                              judge_.is_running(i) &&
                              !(verdict && verdict->process == i);
      if (is_awaited && judge_.number(i) < before[i] + 2) {
        return false;
      }
    }
    return true;
  };
  // A busy machine beats late.
  const auto end = Clock::now() + nanoseconds(1 + 2 * settings_.interval);
  while (!do_all_know() && Clock::now() < end) {
    changed_.wait_for(lock, nanoseconds(settings_.interval / 20));
    lock.unlock();
    const bool is_there = exchange();
    lock.lock();
    if (!is_there) {
      return;
    }
  }
}

void Monitor::watch() {
  Lock lock(mutex_);
  while (!has_beater_ended_) {
    changed_.wait_for(lock, nanoseconds(settings_.interval), [&] {
      return is_stopping_ || has_beater_ended_;
    });
    if (is_stopping_ || has_beater_ended_) {
      break;
    }
    judge_.looked(Clock::now(), num_beats_);
    publish(lock);
  }
  has_watcher_ended_ = true;
  changed_.notify_all();
}

void Monitor::stop() {
  {
    Lock lock(mutex_);
    if (state_ == Beat::State::kRunning) {
      state_ = Beat::State::kLeft;
    }
    is_stopping_ = true;
    changed_.notify_all();
    const double most =
        judge_.is_store_silent() ? 0.1 : 3 + 2 * settings_.interval;
    changed_.wait_for(lock, nanoseconds(most), [&] {
      return has_beater_ended_ && has_watcher_ended_;
    });
  }
  // A thread that is still in the store keeps the monitor until it is back.
  bool has_ended;
  for (std::thread* thread : {&beater_, &watcher_}) {
    {
      const Lock lock(mutex_);
      has_ended = thread == &beater_ ? has_beater_ended_ : has_watcher_ended_;
    }
    has_ended ? thread->join() : thread->detach();
  }
}

void Monitor::report(std::string_view text) {
  Lock lock(mutex_);
  state_ = Beat::State::kFailed;
  failure_ = text.substr(0, Beat::kMaxText);
  const std::optional<Verdict>& verdict = judge_.verdict();
  if (verdict) {
    cause_ = verdict->process;
    why_ = verdict->why;
  }
  is_urgent_ = true;
  changed_.notify_all();
  const uint64_t before = num_beats_;
  changed_.wait_for(lock, nanoseconds(settings_.interval), [&] {
    return has_beater_ended_ || (!is_urgent_ && num_beats_ > before);
  });
}

int Monitor::note_late(int awaited) {
  const Lock lock(mutex_);
  const bool is_known = awaited >= 0 && awaited < num_processes_;
  if (!is_known) {
    return awaited;
  }
  blame(judge_.late(awaited), Why::kLate);
  return cause_;
}

void Monitor::check(int process) {
  std::optional<Verdict> why;
  {
    const Lock lock(mutex_);
    why = judge_.verdict();
    if (!why && process >= 0 && process < num_processes_) {
      why = judge_.left(process);
      if (why) {
        blame(process, Why::kLeft);
      }
    }
    const std::optional<Verdict>& end = judge_.end_of_store();
    if (!why && end && end->process == process) {
      why = end;
    }
  }
  if (why) {
    throw CoreError(ErrorKind::kProcess, code_of(why->why), why->text);
  }
}

// Of this process. Never destroyed: threads may outlive static objects.
struct Current {
  // That watches: a child made by fork has none of its threads, and may find
  // the lock held for ever.
  std::atomic<pid_t> pid{0};
  std::mutex mutex;
  std::shared_ptr<Monitor> monitor;
  std::optional<Verdict> last_verdict;
};
Current& current() {
  static Current& forever = *new Current;
  return forever;
}

std::shared_ptr<Monitor> running() {
  if (current().pid != getpid()) {
    return nullptr;
  }
  const Lock lock(current().mutex);
  return current().monitor;
}

void check_verdict(int process) {
  const std::shared_ptr<Monitor> monitor = running();
  if (monitor && monitor->is_alarmed) {
    monitor->check(process);
  }
}

}  // namespace

void start_monitor(
    std::unique_ptr<Store> store,
    int process,
    int num_processes,
    const MonitorSettings& settings) {
  stop_monitor();
  auto monitor = std::make_shared<Monitor>(
      std::move(store), process, num_processes, settings);
  monitor->start(monitor);
  {
    const Lock lock(current().mutex);
    current().last_verdict.reset();
    // That of a parent, whose threads are not here, must not be destroyed.
    if (current().monitor && current().pid != getpid()) {
      new std::shared_ptr<Monitor>(std::move(current().monitor));
    }
    current().monitor = std::move(monitor);
    current().pid = getpid();
  }
  set_verdict_hook(check_verdict);
}

void stop_monitor() {
  const std::shared_ptr<Monitor> monitor = running();
  if (!monitor) {
    return;
  }
  {
    const Lock lock(current().mutex);
    if (current().monitor != monitor) {
      return;  // another thread stops it
    }
    current().monitor.reset();
    current().last_verdict = monitor->verdict();
  }
  set_verdict_hook(nullptr);
  monitor->stop();
}

void report_failure(std::string_view text) {
  if (const std::shared_ptr<Monitor> monitor = running()) {
    monitor->report(text);
  }
}

void note_op(const Stamp& stamp, std::string_view line) {
  Noted& last = noted();
  const Lock lock(last.mutex);
  ++last.begun;
  last.stamp = stamp;
  last.stamp.text[Stamp::kTextSize - 1] = '\0';
  if (!line.empty()) {
    last.line = line;
  }
}

void set_line_hook(std::string (*hook)()) { line_hook = hook; }

std::string line_of_script() {
  const auto hook = line_hook.load();
  return hook ? hook() : std::string();
}

void note_op_ended() {
  Noted& last = noted();
  const Lock lock(last.mutex);
  last.ended = last.begun;
}

std::optional<std::string> verdict() {
  if (current().pid != getpid()) {
    return std::nullopt;
  }
  const std::shared_ptr<Monitor> monitor = running();
  std::optional<Verdict> why;
  if (monitor) {
    why = monitor->verdict();
  } else {
    const Lock lock(current().mutex);
    why = current().last_verdict;
  }
  if (!why) {
    return std::nullopt;
  }
  return why->text + " [" + code_of(why->why) + "]";
}

void note_closed(int process) {
  if (const std::shared_ptr<Monitor> monitor = running()) {
    monitor->ask(process, [&](Judge& judge) { judge.closed(process); });
  }
}

int note_late(int awaited) {
  const std::shared_ptr<Monitor> monitor = running();
  return monitor ? monitor->note_late(awaited) : awaited;
}

void note_difference() {
  if (const std::shared_ptr<Monitor> monitor = running()) {
    monitor->note_difference();
  }
}

void wait_for_verdict(int process, const char* doing) {
  const std::shared_ptr<Monitor> monitor = running();
  const std::chrono::duration<double> most(
      monitor ? monitor->verdict_within() : 0);
  const auto start = std::chrono::steady_clock::now();
  const Wait wait(process);
  do {
    wait.check(doing);
    std::this_thread::sleep_for(Wait::kSlice / 5);
  } while (std::chrono::steady_clock::now() - start < most);
}

std::string process_name(int process) {
  if (const std::shared_ptr<Monitor> monitor = running()) {
    return monitor->ask(
        process, [&](Judge& judge) { return judge.name(process); });
  }
  return "process " + std::to_string(process);
}

std::string last_said(int process) {
  if (const std::shared_ptr<Monitor> monitor = running()) {
    return monitor->ask(
        process, [&](Judge& judge) { return judge.last_said(process); });
  }
  return "";
}

}  // namespace torch_mesh

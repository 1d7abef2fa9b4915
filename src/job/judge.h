// judge.h: which process of a job is lost, by the beats of all.

#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "job/beat.h"

namespace torch_mesh {

struct MonitorSettings {
  // Seconds from beat to beat.
  double interval = 0.5;
  // Seconds without a beat after which a process is lost; 0: none is ever.
  double limit = 3;
  // Whose end is that of the store; -1: not known, or none of the job.
  int store_keeper = -1;

  // With the limit that TORCH_MESH_HEARTBEAT gives; beats come six times in it,
  // and at least twice a second. Throws [process-timeout], as CoreError, if
  // that is no number of seconds.
  static MonitorSettings of_environment();
};

// Why a job ends.
struct Verdict {
  Why why;
  int process;       // that is lost; -1: the one that keeps the store
  std::string text;  // as of a CoreError, whose code is code_of(why)
};

// The rules, without threads, clocks and stores. The first verdict stays.
//
// Time is counted in beats of this process, so that a machine which slept, or a
// job whose processes were all stopped, wakes up without alarm.
// Threads: one at a time.
class Judge {
 public:
  using Time = std::chrono::steady_clock::time_point;

  Judge(int process, int num_processes, const MonitorSettings& settings);

  // A beat of this process is out.
  //
  //   beats  what each process said last; nullopt: nothing yet
  void heard(Time now, const std::vector<std::optional<std::string>>& beats);
  // Asked once in each interval, by another thread than the one that beats.
  //
  //   num_beats  of this process that are out
  void looked(Time now, uint64_t num_beats);
  // The store gave an error, after which it is not asked again; "" says no more
  // than that.
  void store_failed(std::string_view error);
  // A connection to this process was closed by its end: two beats that do not
  // come are then enough.
  void closed(int process);

  // "host x, pid 123", as the process says.
  void set_name(int process, std::string_view name);
  bool has_name(int process) const { return !peers_[process].name.empty(); }

  const std::optional<Verdict>& verdict() const { return verdict_; }
  // What one who waits for `process` is told, if it has ended well.
  std::optional<Verdict> left(int process) const;
  bool has_any_left() const;
  // Of the store after a process has left: no verdict, since the job may be at
  // its end, but the end of waits for the process that keeps it.
  const std::optional<Verdict>& end_of_store() const { return end_of_store_; }
  // "process 1 (host x, pid 123)".
  std::string name(int process) const;
  // What `process` said last, as indented lines of a message.
  std::string last_said(int process) const;
  // Whom to name where `awaited` does not come in time: `awaited`, unless it
  // waits itself, and another one waits for nobody and has done less.
  int late(int awaited) const;
  // Beats of `process` that came; 0: none.
  uint64_t number(int process) const;
  bool is_running(int process) const;
  int num_running() const;
  bool is_store_silent() const { return is_store_silent_; }

 private:
  struct Peer {
    std::string raw;
    std::optional<Beat> beat;
    std::string name;
    Time since;         // of the last change
    int unchanged = 0;  // beats of this process since then
    bool is_closed = false;
  };

  // Whether this process itself stood still from `last` to `now`.
  bool stood_still(std::optional<Time>& last, Time now) const;
  bool is_over_limit(int beats) const;
  void judge(Time now, int process);
  void end_store();
  void judge_failure(int process, const Beat& beat);
  void decide(Why why, int process, const std::string& text);
  std::string limit_text() const;

  const int process_;
  const MonitorSettings settings_;
  std::vector<Peer> peers_;
  std::optional<Time> last_heard_;
  std::optional<Time> last_counted_;  // of beats that count
  std::optional<Time> last_looked_;
  uint64_t num_beats_ = 0;
  int silent_ = 0;  // intervals since the last beat of this process
  bool is_store_silent_ = false;
  std::optional<Verdict> end_of_store_;
  std::optional<Verdict> verdict_;
};

}  // namespace torch_mesh

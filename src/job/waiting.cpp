// waiting.cpp: limits and hooks of a whole process.

#include "job/waiting.h"

#include <atomic>
#include <cmath>

#include <torch_mesh/error.h>

#include "job/background.h"
#include "job/message.h"
#include "job/monitor.h"

namespace torch_mesh {
namespace {

std::atomic<double> limit{1800};
std::atomic<WaitHook> verdict_hook{nullptr};
std::atomic<WaitHook> interrupt_hook{nullptr};

}  // namespace

void set_wait_limit(double seconds) {
  TORCH_MESH_CHECK_VALUE(
      std::isfinite(seconds) && seconds >= 0,
      "process-timeout",
      "set_wait_limit: ",
      seconds,
      " is no time to wait.\n"
      "Hint: give a number of seconds above 0, or 0 to wait without end.");
  limit = seconds;
}

double wait_limit() { return limit; }

void set_verdict_hook(WaitHook hook) { verdict_hook = hook; }

void set_interrupt_hook(WaitHook hook) { interrupt_hook = hook; }

Wait::Wait(int process)
    : process_(process), start_(std::chrono::steady_clock::now()) {}

void Wait::check(const char* doing) const {
  // Ctrl-C is for who waits for the background, and may have Python's lock.
  if (const WaitHook hook = interrupt_hook; hook && !is_in_background()) {
    hook(process_);
  }
  if (const WaitHook hook = verdict_hook) {
    hook(process_);
  }
  const std::chrono::duration<double> waited =
      std::chrono::steady_clock::now() - start_;
  const double most = limit;
  if (most == 0 || waited.count() < most) {
    return;
  }
  const int late = note_late(process_);
  detail::raise(
      ErrorKind::kProcess,
      "peer-late",
      late < 0 ? "what this process waits for" : process_name(late),
      " did not come within ",
      most,
      " s.",
      late < 0 ? "" : last_said(late),
      "\n  waited for in  ",
      shown(doing),
      late == process_ ? "" : ", of " + process_name(process_),
      "\nHint: all processes must run the same program; where one may take "
      "longer, raise TORCH_MESH_TIMEOUT (seconds; 0 waits without end).");
}

}  // namespace torch_mesh

// monitor.h: whether the other processes of the job are still there.
//
// Two threads of this process, which need neither torch nor Python: one tells
// the others through the store that this process lives, and reads what they say
// (beat.h); one watches that the first comes back from the store. What they
// find ends each wait of this process (waiting.h) and is written to stderr at
// once, for a process that waits for nobody.
//
// Threads: all functions may be called on any thread.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "job/judge.h"
#include "job/message.h"
#include "job/store.h"

namespace torch_mesh {

// Begins to watch over a job. One at a time: an earlier one is stopped. A child
// made by fork has none.
//
//   store  of the job, for the use of the monitor alone; nothing of an earlier
//          job under the same keys (beat/0, name/0, ...)
void start_monitor(
    std::unique_ptr<Store> store,
    int process,
    int num_processes,
    const MonitorSettings& settings = MonitorSettings::of_environment());

// Tells the others that this process leaves, or that it failed if it said so,
// and ends the threads. Takes some 10 ms; in the process that keeps the store
// it waits until the others have read that, before the store goes: about an
// interval, at most two and 1 s. Where the store does not answer a thread is
// left behind, 2 s later, or at once if the store is known to be lost.
void stop_monitor();

// This process ends with an error, which the others are shown: at most
// `Beat::kMaxText` bytes of it. Returns when that is in the store, or after one
// interval.
void report_failure(std::string_view text);

// The collective that this process begins, or has ended. 20 to 50 ns.
//
//   line  of the user's script, "train.py:12"; empty: as before
void note_op(const Stamp& stamp, std::string_view line);
void note_op_ended();
// Where the user's script is, for `note_op`: what the hook says, "" without
// one. Called by the thread that begins a collective.
void set_line_hook(std::string (*hook)());
std::string line_of_script();

// Why the job is over, as the text of a CoreError with its code; nullopt while
// it goes on.
std::optional<std::string> verdict();

// A connection to `process` broke: fewer beats are enough to find it lost.
void note_closed(int process);
// Waits for `process`, or for nobody in particular (-1), as long as a verdict
// may take, which knows more than a broken connection: throws what Wait throws,
// and returns if there is none.
//
//   doing  what this process waits in, for the message
void wait_for_verdict(int process, const char* doing);

// This process waits for `awaited` for too long: returns who is late, which is
// the cause of the failure if this process reports one.
int note_late(int awaited);
// This process has found that another one does something else.
void note_difference();

// "process 1 (host x, pid 123)", and the indented lines of a message that say
// what it did last; short, without a monitor.
std::string process_name(int process);
std::string last_said(int process);

}  // namespace torch_mesh

// judge.cpp: rules over beats.

#include "job/judge.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iomanip>
#include <sstream>

#include <torch_mesh/error.h>

#include "job/message.h"

namespace torch_mesh {
namespace {

double seconds(Judge::Time from, Judge::Time to) {
  return std::chrono::duration<double>(to - from).count();
}

std::string in_seconds(double time) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << time << " s";
  return text.str();
}

// Lines of another process, escaped and indented.
std::string shown_lines(std::string_view text) {
  constexpr int kMostLines = 12;
  std::string result;
  for (int i = 0; i < kMostLines && !text.empty(); ++i) {
    const size_t length = std::min(text.find('\n'), text.size());
    result += "\n    " + shown(text.substr(0, length));
    text.remove_prefix(std::min(length + 1, text.size()));
  }
  return result;
}

// What is said of the process that is to blame.
const char* words_of(Why why) {
  switch (why) {
    case Why::kLost:
      return " is lost";
    case Why::kFailed:
      return " ended with an error";
    case Why::kLate:
      return " is late";
    case Why::kLeft:
      return " has left the job";
    case Why::kDiffers:
      return " runs another program than others";
  }
  return "";
}

}  // namespace

MonitorSettings MonitorSettings::of_environment() {
  MonitorSettings settings;
  const char* text = std::getenv("TORCH_MESH_HEARTBEAT");
  if (!text || !*text) {
    return settings;
  }
  char* end = nullptr;
  settings.limit = std::strtod(text, &end);
  TORCH_MESH_CHECK_VALUE(
      *end == '\0' && std::isfinite(settings.limit) && settings.limit >= 0,
      "process-timeout",
      "TORCH_MESH_HEARTBEAT: ",
      shown(text),
      " is no number of seconds.\n"
      "Hint: give the seconds without a beat after which a process is lost, or "
      "0 for never.");
  if (settings.limit > 0) {
    settings.interval = std::min(settings.interval, settings.limit / 6);
  }
  return settings;
}

Judge::Judge(int process, int num_processes, const MonitorSettings& settings)
    : process_(process), settings_(settings), peers_(num_processes) {}

bool Judge::stood_still(std::optional<Time>& last, Time now) const {
  // 2 s beyond the interval, with the usual limit of 3 s.
  const double late = settings_.limit > 0 ? settings_.limit * 2 / 3 : 2;
  const bool is_late = last && seconds(*last, now) > settings_.interval + late;
  last = now;
  return is_late;
}

bool Judge::is_over_limit(int beats) const {
  return settings_.limit > 0 &&
         beats >= std::ceil(settings_.limit / settings_.interval - 1e-6);
}

void Judge::heard(
    Time now,
    const std::vector<std::optional<std::string>>& beats) {
  const bool anew = stood_still(last_heard_, now);
  // Beats that come at once, as those of a process that ends, give the others
  // no time to answer.
  const bool counts =
      !last_counted_ || seconds(*last_counted_, now) >= settings_.interval / 2;
  if (counts) {
    last_counted_ = now;
  }
  for (size_t i = 0; i < peers_.size(); ++i) {
    Peer& peer = peers_[i];
    if (!beats[i]) {
      continue;
    }
    if (*beats[i] != peer.raw) {
      peer.raw = *beats[i];
      // What is no beat shows that somebody is there, and nothing else.
      if (std::optional<Beat> beat = Beat::parse(peer.raw)) {
        peer.beat = std::move(beat);
      }
      peer.since = now;
      peer.unchanged = 0;
    } else if (anew) {
      peer.unchanged = 0;
    } else if (counts) {
      ++peer.unchanged;
    }
  }
  // A process that says what went wrong comes before those that fell silent.
  for (int i = 0; i < static_cast<int>(peers_.size()); ++i) {
    const std::optional<Beat>& beat = peers_[i].beat;
    if (i != process_ && beat && beat->state == Beat::State::kFailed) {
      judge_failure(i, *beat);
    }
  }
  for (int i = 0; i < static_cast<int>(peers_.size()); ++i) {
    if (i != process_ && !peers_[i].raw.empty() && is_running(i)) {
      judge(now, i);
    }
  }
}

void Judge::judge_failure(int process, const Beat& beat) {
  const int cause = beat.cause;
  const int num_processes = static_cast<int>(peers_.size());
  if (cause >= 0 && cause < num_processes && cause != process_ &&
      cause != process) {
    decide(
        beat.why,
        cause,
        name(cause) + words_of(beat.why) + ", says " + name(process) + "." +
            last_said(cause) + "\n  " + name(process) + " says" +
            shown_lines(beat.failure) +
            "\nHint: look at the output of process " + std::to_string(cause) +
            ".");
    return;
  }
  const Why why = beat.why == Why::kDiffers ? Why::kDiffers : Why::kFailed;
  decide(
      why,
      process,
      name(process) + words_of(why) + "." + shown_lines(beat.failure) +
          last_said(process) + "\nHint: look at the output of process " +
          std::to_string(process) + ".");
}

void Judge::judge(Time now, int process) {
  const Peer& peer = peers_[process];
  const std::string hint =
      "\nHint: look at the output of process " + std::to_string(process) +
      ": it ended, was killed or stands still (TORCH_MESH_HEARTBEAT=0, for all "
      "processes, lets a debugger stop one).";
  if (peer.is_closed && peer.unchanged >= 2) {
    decide(
        Why::kLost,
        process,
        name(process) + " closed its connection and does not answer." +
            last_said(process) + hint);
  } else if (is_over_limit(peer.unchanged)) {
    decide(
        Why::kLost,
        process,
        name(process) + " does not answer since " +
            in_seconds(seconds(peer.since, now)) + "." + last_said(process) +
            limit_text() + hint);
  }
}

void Judge::looked(Time now, uint64_t num_beats) {
  if (stood_still(last_looked_, now) || num_beats != num_beats_) {
    num_beats_ = num_beats;
    silent_ = 0;
    is_store_silent_ = false;
    return;
  }
  is_store_silent_ = is_over_limit(++silent_);
  if (is_store_silent_ && has_any_left()) {
    end_store();
  } else if (is_store_silent_) {
    const int keeper = settings_.store_keeper;
    decide(
        Why::kLost,
        keeper,
        (keeper < 0 ? std::string("the job's store")
                    : name(keeper) + ", which keeps the job's store,") +
            " does not answer since " +
            in_seconds(silent_ * settings_.interval) + "." +
            (keeper < 0 ? std::string() : last_said(keeper)) + limit_text() +
            "\nHint: look at the process that keeps the store, process 0 or "
            "the "
            "launcher: it stands still, or its host does not answer.");
  }
}

void Judge::store_failed(std::string_view error) {
  // A job at its end: the store goes with the process that keeps it.
  if (has_any_left()) {
    end_store();
    return;
  }
  int keeper = settings_.store_keeper;
  for (size_t i = 0; i < peers_.size() && keeper < 0; ++i) {
    keeper = peers_[i].is_closed ? static_cast<int>(i) : -1;
  }
  decide(
      Why::kLost,
      keeper,
      (keeper < 0 ? std::string("the job's store")
                  : name(keeper) + ", with the job's store,") +
          " is gone." + (keeper < 0 ? std::string() : last_said(keeper)) +
          (error.empty() ? "" : "\n  the store says" + shown_lines(error)) +
          "\nHint: look at the output of the process that keeps the store, "
          "process 0 or the launcher: it ended, or was killed.");
}

void Judge::end_store() {
  std::string gone;
  for (int i = 0; i < static_cast<int>(peers_.size()); ++i) {
    if (left(i)) {
      gone += (gone.empty() ? "" : ", ") + name(i);
    }
  }
  end_of_store_ = Verdict{
      Why::kLeft,
      std::max(settings_.store_keeper, 0),
      "the job is at its end: its store is gone, after " + gone +
          " left.\nHint: all processes must run the same program to its end; "
          "look at the output of those that ended first."};
}

void Judge::closed(int process) { peers_[process].is_closed = true; }

void Judge::set_name(int process, std::string_view name) {
  peers_[process].name = shown(name);
}

std::optional<Verdict> Judge::left(int process) const {
  const std::optional<Beat>& beat = peers_[process].beat;
  if (process == process_ || !beat || beat->state != Beat::State::kLeft) {
    return std::nullopt;
  }
  return Verdict{
      Why::kLeft,
      process,
      name(process) + " has left the job, and is waited for." +
          last_said(process) +
          "\nHint: all processes must run the same program; this one does more "
          "than process " +
          std::to_string(process) + "."};
}

bool Judge::has_any_left() const {
  for (int i = 0; i < static_cast<int>(peers_.size()); ++i) {
    const std::optional<Beat>& beat = peers_[i].beat;
    if (i != process_ && beat && beat->state == Beat::State::kLeft) {
      return true;
    }
  }
  return false;
}

std::string Judge::name(int process) const {
  const std::string& name = peers_[process].name;
  return "process " + std::to_string(process) +
         (name.empty() ? "" : " (" + name + ")");
}

std::string Judge::last_said(int process) const {
  const std::optional<Beat>& beat = peers_[process].beat;
  if (!beat) {
    return "";
  }
  std::string text;
  if (beat->begun == 0) {
    text = "\n  its last op  none yet";
  } else {
    text = "\n  its last op  " + shown(beat->op) + " (number " +
           std::to_string(beat->begun) +
           (beat->ended < beat->begun ? ", begun)" : ", ended)");
  }
  if (!beat->line.empty()) {
    text += "\n  at  " + shown(beat->line);
  }
  return text;
}

int Judge::late(int awaited) const {
  auto waits = [&](int process) {
    const std::optional<Beat>& beat = peers_[process].beat;
    return beat && beat->ended < beat->begun;
  };
  if (!waits(awaited)) {
    return awaited;
  }
  int latest = awaited;
  uint64_t least = peers_[awaited].beat->begun;
  for (int i = 0; i < static_cast<int>(peers_.size()); ++i) {
    const std::optional<Beat>& beat = peers_[i].beat;
    if (i != process_ && beat && !waits(i) && beat->begun < least) {
      latest = i;
      least = beat->begun;
    }
  }
  return latest;
}

uint64_t Judge::number(int process) const {
  const std::optional<Beat>& beat = peers_[process].beat;
  return beat ? beat->number : 0;
}

bool Judge::is_running(int process) const {
  const std::optional<Beat>& beat = peers_[process].beat;
  return !beat || beat->state == Beat::State::kRunning;
}

int Judge::num_running() const {
  int num = 0;
  for (int i = 0; i < static_cast<int>(peers_.size()); ++i) {
    num += is_running(i);
  }
  return num;
}

std::string Judge::limit_text() const {
  std::ostringstream text;
  text << "\n  limit  " << settings_.limit
       << " s without a beat (TORCH_MESH_HEARTBEAT)";
  return text.str();
}

void Judge::decide(Why why, int process, const std::string& text) {
  if (!verdict_) {
    verdict_ = Verdict{why, process, text};
  }
}

}  // namespace torch_mesh

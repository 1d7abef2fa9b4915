// beat.h: what a process tells the others about itself, twice a second.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace torch_mesh {

// Why a process ends its part of a job.
enum class Why {
  kLost,     // another one is gone
  kFailed,   // ... ended with an error
  kLate,     // ... is there, but does not come
  kLeft,     // ... ended well, before it was done with
  kDiffers,  // the processes do different things
};
// "peer-lost", ..., "processes-differ".
const char* code_of(Why why);

struct Beat {
  enum class State {
    kRunning,
    kFailed,  // its program ends with `failure`
    kLeft,    // its program has ended well
  };
  static constexpr size_t kMaxText = 2000;

  uint64_t number = 0;  // of the beats of its process
  uint64_t begun = 0;   // collectives
  uint64_t ended = 0;
  uint64_t hash = 0;  // Stamp::hash of the last one
  State state = State::kRunning;
  // The process for which it failed, -1: none; and why.
  int cause = -1;
  Why why = Why::kLost;
  // Its last collective, the line of its script, its error. Not escaped; what
  // is longer than `kMaxText` is cut.
  std::string op;
  std::string line;
  std::string failure;

  std::string str() const;
  // nullopt if it is not the text of a beat.
  static std::optional<Beat> parse(std::string_view text);
};

}  // namespace torch_mesh

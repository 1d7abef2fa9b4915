// beat.h: what a process tells the others about itself, twice a second.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace torch_mesh {

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
  // The process that it found lost, for which it failed; -1: none.
  int cause = -1;
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

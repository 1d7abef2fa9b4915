// message.h: how a message between processes begins.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace torch_mesh {

// What a process does when it communicates.
struct Stamp {
  static constexpr int kTextSize = 128;

  // Of all that the program did on meshes so far, this step included.
  uint64_t hash = 0;
  // "all_gather of float32 (8, 4) along data, in aten::mm"; ends with 0.
  char text[kTextSize] = {};

  void set_text(std::string_view words);
};

// Plain data, equal in all builds.
struct MessageHead {
  uint64_t job = 0;        // its random number
  uint64_t number = 0;     // of the messages from the sender to the receiver
  uint64_t num_bytes = 0;  // that follow
  Stamp stamp;
};
static_assert(sizeof(MessageHead) == 160);

// Throws [processes-differ], as CoreError, if what came is not what this
// process expects: another job's, or of a program that does something else.
// Names both processes and what each does.
//
//   mine      what this process would send in its place
//   received  as it came: nothing in it is trusted
//   process   the sender
void check_head(
    const MessageHead& mine,
    const MessageHead& received,
    int process);

// Text of another process, fit to be shown: at most `Stamp::kTextSize`
// characters, control characters and what is not ASCII escaped.
std::string shown(std::string_view text);

}  // namespace torch_mesh

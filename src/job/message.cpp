// message.cpp: what two processes say they do, compared.

#include "job/message.h"

#include <algorithm>
#include <cstring>

#include <torch_mesh/error.h>
#include <torch_mesh/mesh.h>

namespace torch_mesh {
namespace {

// Up to the first 0; a sender may have left it out.
std::string_view text_of(const Stamp& stamp) {
  const char* end =
      std::find(std::begin(stamp.text), std::end(stamp.text), '\0');
  return {stamp.text, static_cast<size_t>(end - stamp.text)};
}

std::string said(const MessageHead& head) {
  return shown(text_of(head.stamp)) + " (message " +
         std::to_string(head.number) + ", " + std::to_string(head.num_bytes) +
         " bytes)";
}

}  // namespace

void Stamp::set_text(std::string_view words) {
  const size_t length = std::min<size_t>(words.size(), kTextSize - 1);
  std::memcpy(text, words.data(), length);
  std::memset(text + length, 0, kTextSize - length);
}

void check_head(
    const MessageHead& mine,
    const MessageHead& received,
    int process) {
  if (received.job != mine.job) {
    detail::raise(
        ErrorKind::kProcess,
        "processes-differ",
        "a message of another job came in place of one of process ",
        process,
        ".\n  this is process  ",
        this_process(),
        "\nHint: end what is left of the other job, or of an earlier start of "
        "this one.");
  }
  const bool is_same_step = received.number == mine.number &&
                            received.num_bytes == mine.num_bytes &&
                            received.stamp.hash == mine.stamp.hash;
  if (is_same_step) {
    return;
  }
  detail::raise(
      ErrorKind::kProcess,
      "processes-differ",
      "process ",
      process,
      " runs another program than process ",
      this_process(),
      ".\n  process ",
      this_process(),
      "  ",
      said(mine),
      "\n  process ",
      process,
      "  ",
      said(received),
      said(received) == said(mine) ? "\n  what differs came before" : "",
      "\nHint: all processes must run the same ops in the same order, on "
      "values of the same sizes and dtypes. To read, print or save a value is "
      "one: not in `if process_id() == 0`, nor in a callback of one process. "
      "TORCH_MESH_CHECK=1 names the first that differs.");
}

std::string shown(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  for (const char c : text.substr(0, Stamp::kTextSize)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      result += c;
    } else {
      result += {'\\', 'x', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return result;
}

}  // namespace torch_mesh

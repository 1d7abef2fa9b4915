// beat.cpp: the text of a beat: numbers, then three texts with their lengths.

#include "job/beat.h"

#include <array>
#include <charconv>
#include <sstream>

namespace torch_mesh {
namespace {

constexpr std::string_view kFirstWord = "beat2 ";

// Takes a number and the character behind it off the front of `text`.
template <typename Number>
bool take(std::string_view& text, Number& number) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stop == end || (*stop != ' ' && *stop != '\n')) {
    return false;
  }
  text.remove_prefix(stop - text.data() + 1);
  return true;
}

std::string_view cut(const std::string& text) {
  return std::string_view(text).substr(0, Beat::kMaxText);
}

}  // namespace

const char* code_of(Why why) {
  constexpr const char* kCodes[] = {
      "peer-lost",
      "peer-failed",
      "peer-late",
      "peer-left",
      "processes-differ",
  };
  return kCodes[static_cast<size_t>(why)];
}

std::string Beat::str() const {
  std::ostringstream text;
  text << kFirstWord << number << ' ' << begun << ' ' << ended << ' ' << hash
       << ' ' << static_cast<int>(state) << ' ' << cause << ' '
       << static_cast<int>(why) << ' ' << cut(op).size() << ' '
       << cut(line).size() << ' ' << cut(failure).size() << '\n'
       << cut(op) << cut(line) << cut(failure);
  return text.str();
}

std::optional<Beat> Beat::parse(std::string_view text) {
  if (!text.starts_with(kFirstWord)) {
    return std::nullopt;
  }
  text.remove_prefix(kFirstWord.size());
  Beat beat;
  int state = 0;
  int why = 0;
  std::array<size_t, 3> lengths = {};
  const bool are_numbers = take(text, beat.number) && take(text, beat.begun) &&
                           take(text, beat.ended) && take(text, beat.hash) &&
                           take(text, state) && take(text, beat.cause) &&
                           take(text, why) && take(text, lengths[0]) &&
                           take(text, lengths[1]) && take(text, lengths[2]);
  if (!are_numbers || state < 0 || state > static_cast<int>(State::kLeft) ||
      why < 0 || why > static_cast<int>(Why::kDiffers)) {
    return std::nullopt;
  }
  beat.state = static_cast<State>(state);
  beat.why = static_cast<Why>(why);
  std::string* const parts[] = {&beat.op, &beat.line, &beat.failure};
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] > kMaxText || lengths[i] > text.size()) {
      return std::nullopt;
    }
    *parts[i] = text.substr(0, lengths[i]);
    text.remove_prefix(lengths[i]);
  }
  return text.empty() ? std::optional(beat) : std::nullopt;
}

}  // namespace torch_mesh

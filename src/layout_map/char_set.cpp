// char_set.cpp: sets of characters, and their text for std::regex.

#include "layout_map/char_set.h"

#include <cctype>

namespace torch_mesh {
namespace {

CharSet set_if(bool (*holds)(int)) {
  CharSet set;
  for (int c = kFirstPlain; c <= kLastPlain; ++c) {
    set[c] = holds(c);
  }
  return set;
}

std::string hex(int c) {
  constexpr char kDigits[] = "0123456789abcdef";
  return {'\\', 'x', kDigits[c / 16], kDigits[c % 16]};
}

std::string char_text(int c, bool in_class) {
  if (std::isalnum(c) || c == '_') {
    return std::string(1, static_cast<char>(c));
  }
  if (!in_class &&
      std::string_view(" /-=:,;<>@!#%&'\"~`").find(static_cast<char>(c)) !=
          std::string_view::npos) {
    return std::string(1, static_cast<char>(c));
  }
  return hex(c);
}

}  // namespace

bool is_plain(std::string_view text) {
  // Without an early end, so that the compiler looks at many at once.
  bool is_other = false;
  for (const char c : text) {
    is_other |= c < kFirstPlain || c > kLastPlain;
  }
  return !is_other;
}

const CharSet& all_chars() {
  static const CharSet set = set_if([](int) { return true; });
  return set;
}

CharSet digits() {
  return set_if([](int c) { return c >= '0' && c <= '9'; });
}

CharSet word_chars() {
  return set_if([](int c) { return std::isalnum(c) != 0 || c == '_'; });
}

CharSet spaces() {
  return set_if([](int c) { return c == ' '; });
}

CharSet with_both_cases(const CharSet& set) {
  CharSet both = set;
  for (int c = 'a'; c <= 'z'; ++c) {
    const int upper = c - 'a' + 'A';
    both[c] = both[upper] = set[c] || set[upper];
  }
  return both;
}

std::string set_text(const CharSet& set) {
  if (set == all_chars()) {
    return ".";
  }
  if (set.none()) {
    return "\\x01";  // no plain text has it
  }
  std::string text;
  for (int c = kFirstPlain; c <= kLastPlain; ++c) {
    if (!set[c]) {
      continue;
    }
    int last = c;
    while (last < kLastPlain && set[last + 1]) {
      ++last;
    }
    if (set.count() == 1) {
      return char_text(c, /*in_class=*/false);
    }
    text += char_text(c, /*in_class=*/true);
    if (last > c + 1) {
      text += '-';
    }
    if (last > c) {
      text += char_text(last, /*in_class=*/true);
    }
    c = last;
  }
  return "[" + text + "]";
}

}  // namespace torch_mesh

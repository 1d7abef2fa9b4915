// char_set.h: the plain characters that may stand at a place of a text.

#pragma once

#include <bitset>
#include <string>
#include <string_view>

namespace torch_mesh {

// Plain are the printable characters of ASCII.
constexpr int kFirstPlain = 0x20;
constexpr int kLastPlain = 0x7e;

// Whether a text is all of plain characters.
bool is_plain(std::string_view text);

// By character; others than plain ones are never in it.
using CharSet = std::bitset<128>;

const CharSet& all_chars();
CharSet digits();
CharSet word_chars();
CharSet spaces();

CharSet with_both_cases(const CharSet& set);

// As part of a regular expression of std::regex (ECMAScript).
std::string set_text(const CharSet& set);

}  // namespace torch_mesh

// notation.h: a line of rule as a tree, before it meets a call.
//
// docs/notation.md has the grammar and the meaning.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace torch_mesh::rules {

// One word of a term.
struct Token {
  enum class Kind : uint8_t {
    kLetter,  // m      one dim
    kGroup,   // x*     any number of dims
    kOnes,    // x*1    as many dims of size 1
    kSize,    // 2      a dim of that size, without a letter
    kMerged,  // (b t)  one dim, the outermost letter first
  };
  Kind kind = Kind::kLetter;
  std::string name;                  // "m", "x*" (also for x*1)
  std::vector<std::string> letters;  // kMerged
  int64_t size = 0;                  // kSize

  std::string str() const;
  bool operator==(const Token&) const = default;
};

// What one tensor, or each tensor of a list, looks like.
struct Term {
  bool is_list = false;        // each:
  bool broadcasts = false;     // ~
  bool is_replicated = false;  // _
  bool repeats = false;        // ...
  std::vector<Token> dims;
  std::vector<Token> independent;  // after ^

  std::string str() const;
  bool operator==(const Term&) const = default;
};

struct Modifier {
  std::string name;
  std::vector<std::string> args;
  size_t place = 0;  // in the text, for errors

  std::string str() const;
};

struct Alternative {
  std::vector<Term> inputs;
  std::vector<Term> outputs;
  std::vector<Modifier> modifiers;

  const Modifier* modifier(std::string_view name) const;
  // The only token of the first input if that is a group: the one whose dims
  // arguments such as `dim` count. Empty if there is none.
  std::string main_group() const;
  std::string str() const;
};

// Alternatives in the order in which they are tried. Throws [rule-text].
std::vector<Alternative> parse_notation(std::string_view text);

// Throws [rule-text]: `what` stands at `place` of `text`.
[[noreturn]] void raise_rule_text(
    std::string_view text,
    size_t place,
    const std::string& what,
    const std::string& hint);

// "m", "x*" or "m1".
bool is_token_name(std::string_view word);

// "0 1" -> {"0", "1"}
std::vector<std::string> words_of(const std::string& text);

}  // namespace torch_mesh::rules

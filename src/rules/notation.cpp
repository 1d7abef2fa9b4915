// notation.cpp: reads and prints lines of rule.

#include "rules/notation.h"

#include <cctype>

#include <torch_mesh/error.h>

#include "rules/modifiers.h"

namespace torch_mesh::rules {
namespace {

constexpr int64_t kMostOfSize = int64_t{1} << 48;

bool is_letter(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_word_char(char c) { return is_letter(c) || is_digit(c) || c == '_'; }

// Reads one rule from left to right.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::vector<Alternative> alternatives() {
    std::vector<Alternative> all;
    do {
      all.push_back(alternative());
    } while (take("|"));
    if (!at_end()) {
      fail("has text after its end", "separate alternatives with |");
    }
    return all;
  }

 private:
  Alternative alternative() {
    Alternative result;
    if (!peek("->")) {
      terms(result.inputs, /*is_output=*/false);
    }
    if (!take("->")) {
      fail("has no -> here", "write inputs -> outputs");
    }
    if (!at_end() && !peek("|") && !at_modifier()) {
      terms(result.outputs, /*is_output=*/true);
    }
    while (at_modifier()) {
      result.modifiers.push_back(modifier());
      check_modifier(result);
    }
    return result;
  }

  void terms(std::vector<Term>& all, bool is_output) {
    do {
      if (peek("...") && all.empty()) {
        fail("has no term before ...", "write the term that is to repeat");
      }
      if (!all.empty() && all.back().repeats) {
        fail("has a term after ...", "let ... be the last one");
      }
      all.push_back(term(is_output));
    } while (take(","));
  }

  Term term(bool is_output) {
    Term result;
    if (take("...")) {
      result.repeats = true;
      return result;
    }
    result.is_list = take("each:");
    if (!is_output && take("~")) {
      result.broadcasts = true;
    }
    if (!is_output && peek("_")) {
      take("_");
      result.is_replicated = true;
      return result;
    }
    if (!take(".")) {
      result.dims = tokens();
      if (result.dims.empty()) {
        fail(
            at_end() ? "ends where a term is due" : "has no term here",
            "name the dims with letters, or write . for none");
      }
    }
    if (is_output && take("^")) {
      result.independent = tokens();
      if (result.independent.empty()) {
        fail("has nothing after ^", "name the letters it does not depend on");
      }
    }
    return result;
  }

  std::vector<Token> tokens() {
    std::vector<Token> result;
    for (;;) {
      skip_space();
      if (at_end() || at_modifier()) {
        return result;
      }
      const char c = text_[place_];
      if (is_digit(c)) {
        result.push_back(number());
      } else if (is_letter(c)) {
        result.push_back(letter());
      } else if (c == '(') {
        result.push_back(merged());
      } else {
        return result;
      }
    }
  }

  Token number() {
    Token token;
    token.kind = Token::Kind::kSize;
    const size_t start = place_;
    while (!at_end() && is_digit(text_[place_])) {
      token.size = token.size * 10 + (text_[place_++] - '0');
      if (token.size > kMostOfSize) {
        place_ = start;
        fail("has a number that no dim is as long as", "write a size");
      }
    }
    return token;
  }

  Token letter() {
    Token token;
    token.name = text_[place_++];
    if (!at_end() && is_digit(text_[place_])) {
      token.name += text_[place_++];
    }
    if (!at_end() && text_[place_] == '*') {
      ++place_;
      token.name += '*';
      token.kind = Token::Kind::kGroup;
      if (!at_end() && text_[place_] == '1') {
        ++place_;
        token.kind = Token::Kind::kOnes;
      }
    }
    return token;
  }

  Token merged() {
    Token token;
    token.kind = Token::Kind::kMerged;
    const size_t start = place_;
    ++place_;
    while (!take(")")) {
      skip_space();
      if (at_end() || !is_letter(text_[place_])) {
        fail("has no letter here", "write merged dims as (b t)");
      }
      const Token inner = letter();
      if (inner.kind != Token::Kind::kLetter) {
        fail("merges a group", "merged dims have letters only");
      }
      token.letters.push_back(inner.name);
    }
    if (token.letters.size() < 2) {
      place_ = start;
      fail("merges less than two letters", "leave the brackets out");
    }
    return token;
  }

  // A word of two letters or more, which no token is.
  bool at_modifier() {
    skip_space();
    size_t end = place_;
    while (end < text_.size() && is_word_char(text_[end])) {
      ++end;
    }
    return end - place_ >= 2 && is_letter(text_[place_]) &&
           !(end - place_ == 2 && is_digit(text_[place_ + 1])) &&
           (end == text_.size() || text_[end] != ':');
  }

  Modifier modifier() {
    Modifier result;
    result.place = place_;
    while (!at_end() && is_word_char(text_[place_])) {
      result.name += text_[place_++];
    }
    if (at_end() || text_[place_] != '(') {
      return result;
    }
    const size_t open = place_++;
    std::string arg;
    for (;; ++place_) {
      if (at_end()) {
        place_ = open;
        fail(
            "opens a bracket that nothing closes",
            "write " + result.name + "(...)");
      }
      const char c = text_[place_];
      if (c == ',' || c == ')') {
        result.args.push_back(normal(arg, open));
        arg.clear();
        if (c == ')') {
          ++place_;
          return result;
        }
      } else {
        arg += c;
      }
    }
  }

  std::string normal(const std::string& arg, size_t place) {
    std::string result;
    for (const std::string& word : words_of(arg)) {
      result += (result.empty() ? "" : " ") + word;
    }
    if (result.empty()) {
      place_ = place;
      fail("has an empty argument", "leave the comma or the brackets out");
    }
    return result;
  }

  void check_modifier(const Alternative& alternative) {
    const std::string problem = problem_of_modifier(alternative);
    if (!problem.empty()) {
      place_ = alternative.modifiers.back().place;
      fail(problem, "see docs/notation.md for the modifiers");
    }
  }

  void skip_space() {
    while (!at_end() &&
           std::isspace(static_cast<unsigned char>(text_[place_])) != 0) {
      ++place_;
    }
  }

  bool peek(std::string_view word) {
    skip_space();
    return text_.substr(place_).starts_with(word);
  }

  bool take(std::string_view word) {
    if (!peek(word)) {
      return false;
    }
    place_ += word.size();
    return true;
  }

  bool at_end() const { return place_ >= text_.size(); }

  [[noreturn]] void fail(const std::string& what, const std::string& hint) {
    raise_rule_text(text_, place_, what, hint);
  }

  std::string_view text_;
  size_t place_ = 0;
};

template <typename Parts>
std::string joined(const Parts& parts, const char* between) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    text += (i == 0 ? "" : between) + parts[i].str();
  }
  return text;
}

}  // namespace

std::string Token::str() const {
  switch (kind) {
    case Kind::kOnes:
      return name + "1";
    case Kind::kSize:
      return std::to_string(size);
    case Kind::kMerged: {
      std::string text = "(";
      for (const std::string& letter : letters) {
        text += (text.size() == 1 ? "" : " ") + letter;
      }
      return text + ")";
    }
    default:
      return name;
  }
}

std::string Term::str() const {
  if (repeats) {
    return "...";
  }
  std::string text = is_list ? "each: " : "";
  text += broadcasts ? "~" : "";
  text += is_replicated ? "_" : dims.empty() ? "." : joined(dims, " ");
  return independent.empty() ? text : text + " ^" + joined(independent, " ");
}

std::string Modifier::str() const {
  std::string text = name;
  for (size_t i = 0; i < args.size(); ++i) {
    text += (i == 0 ? "(" : ", ") + args[i];
  }
  return args.empty() ? text : text + ")";
}

const Modifier* Alternative::modifier(std::string_view name) const {
  for (const Modifier& modifier : modifiers) {
    if (modifier.name == name) {
      return &modifier;
    }
  }
  return nullptr;
}

std::string Alternative::main_group() const {
  if (inputs.empty() || inputs[0].dims.size() != 1 ||
      inputs[0].dims[0].kind != Token::Kind::kGroup) {
    return "";
  }
  return inputs[0].dims[0].name;
}

std::string Alternative::str() const {
  std::string text = joined(inputs, ", ");
  text += text.empty() ? "->" : " ->";
  if (!outputs.empty()) {
    text += " " + joined(outputs, ", ");
  }
  if (!modifiers.empty()) {
    text += " " + joined(modifiers, " ");
  }
  return text;
}

std::vector<Alternative> parse_notation(std::string_view text) {
  return Parser(text).alternatives();
}

void raise_rule_text(
    std::string_view text,
    size_t place,
    const std::string& what,
    const std::string& hint) {
  detail::raise(
      ErrorKind::kValue,
      "rule-text",
      "rule: \"",
      text,
      "\" ",
      what,
      " (character ",
      place,
      ").\n  ",
      text,
      "\n  ",
      std::string(place, ' '),
      "^\nHint: ",
      hint,
      ".");
}

bool is_token_name(std::string_view word) {
  if (word.ends_with('*')) {
    word.remove_suffix(1);
  }
  return (word.size() == 1 || (word.size() == 2 && is_digit(word[1]))) &&
         is_letter(word[0]);
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  for (const char c : text + " ") {
    if (std::isspace(static_cast<unsigned char>(c)) == 0) {
      word += c;
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  }
  return words;
}

}  // namespace torch_mesh::rules

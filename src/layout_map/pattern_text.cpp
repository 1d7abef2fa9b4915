// pattern_text.cpp: a recursive descent over Python's syntax of patterns.
//
// Where `re` warns or raises, this refuses: then the caller asks `re`.

#include "layout_map/pattern_text.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <utility>

#include "layout_map/char_set.h"

namespace torch_mesh {
namespace {

// std::regex makes a state of each counted repeat; `re` has no limit worth
// the name.
constexpr uint32_t kMaxRepeat = 1000;
constexpr int kMaxDepth = 100;

struct Refused {
  std::string why;
};

struct Node {
  std::string text;
  std::vector<Item> items = std::vector<Item>(1);  // something else
  bool is_nullable = false;                        // matches ""
  bool is_assertion = false;
};

struct Repeat {
  uint32_t least = 0;
  uint32_t most = 0;
};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Node read() {
    while (take_flags()) {
    }
    Node node = read_alternatives();
    refuse_if(!is_at_end(), "unbalanced parenthesis");
    return node;
  }

 private:
  bool is_at_end() const { return at_ >= text_.size(); }
  char peek() const { return is_at_end() ? '\0' : text_[at_]; }
  bool is_next(char c) const { return !is_at_end() && text_[at_] == c; }

  bool take(char c) {
    if (!is_next(c)) {
      return false;
    }
    ++at_;
    return true;
  }

  static void refuse_if(bool condition, const char* why) {
    if (condition) {
      throw Refused{why};
    }
  }

  // A whole code point; `text_` is UTF-8.
  uint32_t take_char() {
    refuse_if(is_at_end(), "unexpected end of pattern");
    const auto first = static_cast<unsigned char>(text_[at_++]);
    if (first < 0x80) {
      return first;
    }
    uint32_t code = first >= 0xf0   ? first & 0x07
                    : first >= 0xe0 ? first & 0x0f
                                    : first & 0x1f;
    while (!is_at_end() &&
           (static_cast<unsigned char>(text_[at_]) & 0xc0) == 0x80) {
      code = code << 6 | (static_cast<unsigned char>(text_[at_++]) & 0x3f);
    }
    return code;
  }

  // At the start of the pattern `re` takes flags for the whole of it. Lines
  // (`m`, `s`) and Unicode (`a`) make no difference to plain texts.
  bool take_flags() {
    const size_t end = text_.find_first_not_of("imsa", at_ + 2);
    if (!text_.substr(at_).starts_with("(?") || end == text_.npos ||
        end == at_ + 2 || text_[end] != ')') {
      return false;
    }
    const std::string_view flags = text_.substr(at_ + 2, end - at_ - 2);
    ignores_case_ |= flags.find('i') != flags.npos;
    at_ = end + 1;
    return true;
  }

  Node read_alternatives() {
    refuse_if(++depth_ > kMaxDepth, "too many nested groups");
    Node node = read_sequence();
    if (is_next('|')) {
      node.items = {Item{}};
    }
    while (take('|')) {
      const Node other = read_sequence();
      node.text += "|" + other.text;
      node.is_nullable |= other.is_nullable;
    }
    --depth_;
    return node;
  }

  Node read_sequence() {
    Node sequence;
    sequence.items.clear();
    sequence.is_nullable = true;
    while (!is_at_end() && !is_next('|') && !is_next(')')) {
      Node node = read_repeated();
      sequence.text += node.text;
      sequence.is_nullable &= node.is_nullable;
      sequence.items.insert(
          sequence.items.end(), node.items.begin(), node.items.end());
    }
    return sequence;
  }

  Node read_repeated() {
    refuse_if(take_repeat().second, "nothing to repeat");
    Node node = read_atom();
    const auto [repeat, is_repeated] = take_repeat();
    if (!is_repeated) {
      return node;
    }
    refuse_if(is_next('+'), "possessive repeats");
    take('?');  // lazy or greedy, a full match is the same
    refuse_if(take_repeat().second, "multiple repeat");
    refuse_if(node.is_assertion, "nothing to repeat");
    // Engines differ in when they stop repeating an empty match.
    refuse_if(
        node.is_nullable && repeat.most > 1, "a repeat of what may be empty");
    refuse_if(repeat.least > repeat.most, "min repeat greater than max repeat");
    refuse_if(
        repeat.least > kMaxRepeat ||
            (repeat.most > kMaxRepeat && repeat.most != kForever),
        "a repeat of more than 1000");
    Node result;
    result.text = node.text + repeat_text(repeat);
    result.is_nullable = node.is_nullable || repeat.least == 0;
    if (node.items.size() == 1 && node.items[0].is_one()) {
      result.items = {{node.items[0].set, repeat.least, repeat.most}};
    }
    return result;
  }

  static std::string repeat_text(const Repeat& repeat) {
    if (repeat.most == kForever && repeat.least <= 1) {
      return repeat.least == 0 ? "*" : "+";
    }
    if (repeat.least == 0 && repeat.most == 1) {
      return "?";
    }
    std::string text = "{" + std::to_string(repeat.least);
    if (repeat.most != repeat.least) {
      text += ",";
      text += repeat.most == kForever ? "" : std::to_string(repeat.most);
    }
    return text + "}";
  }

  // False if what is next repeats nothing. `{` that begins no count is itself.
  std::pair<Repeat, bool> take_repeat() {
    if (take('*')) {
      return {{0, kForever}, true};
    }
    if (take('+')) {
      return {{1, kForever}, true};
    }
    if (take('?')) {
      return {{0, 1}, true};
    }
    const size_t start = at_;
    if (!take('{') || is_next('}')) {
      at_ = start;
      return {{}, false};
    }
    const std::string_view least = take_digits();
    std::string_view most = least;
    const bool has_comma = take(',');
    if (has_comma) {
      most = take_digits();
    }
    if (!take('}')) {
      at_ = start;
      return {{}, false};
    }
    return {{least.empty() ? 0 : number(least),
             most.empty() ? kForever : number(most)},
            true};
  }

  std::string_view take_digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') {
      ++at_;
    }
    return text_.substr(start, at_ - start);
  }

  static uint32_t number(std::string_view digits) {
    uint32_t value = 0;
    for (const char c : digits) {
      value = std::min(value * 10 + static_cast<uint32_t>(c - '0'), 100000U);
    }
    return value;
  }

  Node read_atom() {
    if (take('(')) {
      return read_group();
    }
    if (take('[')) {
      return node_of(read_class());
    }
    if (take('.')) {
      return node_of(all_chars());
    }
    if (take('^')) {
      return assertion("^");
    }
    if (take('$')) {
      return assertion("$");
    }
    if (take('\\')) {
      return read_escape();
    }
    return node_of(set_of(take_char()));
  }

  static Node assertion(std::string text) {
    Node node;
    node.text = std::move(text);
    node.is_nullable = node.is_assertion = true;
    return node;
  }

  static Node node_of(const CharSet& set) {
    Node node;
    node.text = set_text(set);
    node.items = {{set}};
    return node;
  }

  // The set of one character of the pattern, and of its other case.
  CharSet set_of(uint32_t code) const {
    CharSet set;
    add_range(set, code, code);
    return ignores_case_ ? with_both_cases(set) : set;
  }

  void add_range(CharSet& set, uint32_t first, uint32_t last) const {
    // Some letters beyond ASCII are the other case of one within.
    refuse_if(
        ignores_case_ && last > 0x7f, "(?i) with characters beyond ASCII");
    for (uint32_t c = std::max<uint32_t>(first, kFirstPlain);
         c <= std::min<uint32_t>(last, kLastPlain);
         ++c) {
      set[c] = true;
    }
  }

  Node read_group() {
    const bool had_ignored_case = ignores_case_;
    if (take('?')) {
      if (take('P')) {
        refuse_if(!take('<'), "back-references");
        read_name();
      } else if (!take(':')) {
        read_scoped_flags();
      }
    }
    Node node = read_alternatives();
    refuse_if(!take(')'), "missing ), unterminated subpattern");
    ignores_case_ = had_ignored_case;
    node.text = "(?:" + node.text + ")";
    return node;
  }

  void read_scoped_flags() {
    const size_t colon = text_.find(':', at_);
    const bool is_flags = colon != text_.npos && colon > at_ &&
                          text_.find_first_not_of("ims", at_) == colon;
    refuse_if(
        !is_flags, "groups other than (...), (?:...), (?P<name>...), (?i:...)");
    const std::string_view flags = text_.substr(at_, colon - at_);
    ignores_case_ |= flags.find('i') != flags.npos;
    at_ = colon + 1;
  }

  void read_name() {
    const size_t end = text_.find('>', at_);
    refuse_if(end == text_.npos, "missing >, unterminated name");
    std::string name(text_.substr(at_, end - at_));
    const bool is_identifier =
        !name.empty() && !std::isdigit(static_cast<unsigned char>(name[0])) &&
        std::ranges::all_of(name, [](char c) {
          return c == '_' ||
                 (static_cast<unsigned char>(c) < 0x80 && std::isalnum(c));
        });
    refuse_if(!is_identifier, "bad character in group name");
    refuse_if(
        std::ranges::find(names_, name) != names_.end(),
        "redefinition of group name");
    names_.push_back(std::move(name));
    at_ = end + 1;
  }

  Node read_escape() {
    switch (peek()) {
      case 'A':
        ++at_;
        return assertion("^");
      case 'Z':
        ++at_;
        return assertion("$");
      case 'b':
        ++at_;
        return assertion("\\b");
      default:
        break;
    }
    CharSet set;
    if (take_class_escape(set)) {
      return node_of(set);
    }
    return node_of(set_of(take_char_escape()));
  }

  // \d, \w, \s and their opposites.
  bool take_class_escape(CharSet& set) {
    switch (peek()) {
      case 'd':
      case 'D':
        set = digits();
        break;
      case 'w':
      case 'W':
        set = word_chars();
        break;
      case 's':
      case 'S':
        set = spaces();
        break;
      default:
        return false;
    }
    if (std::isupper(static_cast<unsigned char>(peek()))) {
      set = ~set & all_chars();
    }
    ++at_;
    return true;
  }

  // What follows a backslash, where it stands for one character.
  uint32_t take_char_escape() {
    const uint32_t code = take_char();
    switch (code) {
      case 'n':
      case 't':
      case 'r':
      case 'f':
      case 'v':
      case 'a':
        return '\n';  // like them in no plain text
      case 'x':
        return take_hex(2);
      case 'u':
        return take_hex(4);
      default:
        refuse_if(code >= '0' && code <= '9', "back-references");
        refuse_if(
            code < 0x80 && std::isalpha(static_cast<int>(code)), "bad escape");
        return code;
    }
  }

  uint32_t take_hex(size_t num_digits) {
    const std::string_view digits = text_.substr(at_, num_digits);
    refuse_if(
        digits.size() < num_digits ||
            digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos,
        "incomplete escape");
    at_ += num_digits;
    return static_cast<uint32_t>(
        std::stoul(std::string(digits), nullptr, /*base=*/16));
  }

  // What stands between [ and ].
  CharSet read_class() {
    const bool is_negated = take('^');
    CharSet set;
    for (bool is_first = true; is_first || !is_next(']'); is_first = false) {
      CharSet part;
      uint32_t first = 0;
      const bool is_set = take_of_class(part, first);
      // A minus before the closing bracket is itself.
      if (is_next('-') && text_.substr(at_, 2) != "-]") {
        ++at_;
        uint32_t last = 0;
        refuse_if(
            is_set || take_of_class(part, last) || first > last,
            "bad character range");
        add_range(set, first, last);
      } else if (is_set) {
        set |= part;
      } else {
        add_range(set, first, first);
      }
    }
    ++at_;
    if (ignores_case_) {
      set = with_both_cases(set);
    }
    return is_negated ? ~set & all_chars() : set;
  }

  // One character of a class, or true and the set that an escape stands for.
  bool take_of_class(CharSet& set, uint32_t& code) {
    refuse_if(is_at_end(), "unterminated character set");
    const std::string_view two = text_.substr(at_, 2);
    // Kept free by `re` for nested sets.
    refuse_if(
        is_next('[') || two == "--" || two == "&&" || two == "~~" ||
            two == "||",
        "nested sets");
    if (!take('\\')) {
      code = take_char();
      return false;
    }
    if (take_class_escape(set)) {
      return true;
    }
    code = take('b') ? '\b' : take_char_escape();
    return false;
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  bool ignores_case_ = false;
  std::vector<std::string> names_;
};

void add_literals(PatternText& result, const std::vector<Item>& items) {
  std::string run;
  const auto end_run = [&] {
    if (run.size() > 1) {
      result.literals.push_back(run);
    }
    run.clear();
  };
  for (const Item& item : items) {
    if (item.is_char()) {
      run += item.character();
    } else {
      end_run();
    }
  }
  end_run();
}

}  // namespace

PatternText read_pattern(std::string_view text) {
  PatternText result;
  try {
    const Node node = Reader(text).read();
    result.expression = node.text;
    add_literals(result, node.items);
    result.pieces = Pieces::of(node.items);
  } catch (const Refused& refused) {
    result.problem = refused.why;
  }
  return result;
}

}  // namespace torch_mesh

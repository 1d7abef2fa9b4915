// How patterns are read: as Python's `re` reads them, or refused with a reason.

#include <gtest/gtest.h>

#include "layout_map/literal_index.h"
#include "layout_map/pattern.h"

namespace torch_mesh {
namespace {

using Literals = std::vector<std::string>;

std::string problem_of(const std::string& text) {
  return Pattern(text).problem();
}

bool matches(const std::string& pattern, std::string_view text) {
  const Pattern compiled(pattern);
  EXPECT_EQ(compiled.problem(), "") << pattern;
  return compiled.matches_all_of(text);
}

std::vector<int> candidates(const LiteralIndex& index, std::string_view text) {
  std::vector<int> found{-1};
  index.candidates(text, found);
  return found;
}

TEST(Pattern, matches_the_whole_text_only) {
  EXPECT_TRUE(matches("a|ab", "ab"));
  EXPECT_FALSE(matches("a", "ab"));
  EXPECT_TRUE(matches("a*?", "aaa"));
  EXPECT_TRUE(matches("", ""));
}

TEST(Pattern, knows_pythons_spelling) {
  EXPECT_TRUE(matches("a{,2}", "aa"));
  EXPECT_FALSE(matches("a{,2}", "aaa"));
  EXPECT_TRUE(matches("a{,}", "aaa"));
  EXPECT_TRUE(matches("a{x}", "a{x}"));
  EXPECT_TRUE(matches("\\Aa\\Z", "a"));
  EXPECT_TRUE(matches("(?P<layer>dense)_\\d+", "dense_12"));
  EXPECT_TRUE(matches("[]a]+", "]a]"));
  EXPECT_TRUE(matches("[^\\W_]+", "a1"));
  EXPECT_FALSE(matches("[^\\W_]+", "a_1"));
  EXPECT_TRUE(matches("(?i)Dense", "dENSE"));
  EXPECT_TRUE(matches("(?i:D)ense", "dense"));
  EXPECT_FALSE(matches("(?i:D)ense", "dENSE"));
  EXPECT_TRUE(matches("\\x61\\u0062", "ab"));
}

TEST(Pattern, refuses_what_is_not_regular) {
  EXPECT_EQ(problem_of("(a)\\1"), "back-references");
  EXPECT_EQ(problem_of("a++"), "possessive repeats");
  EXPECT_NE(problem_of("a(?=b)"), "");
  EXPECT_NE(problem_of("(?<!a)b"), "");
  EXPECT_NE(problem_of("(?x) a"), "");
  EXPECT_EQ(problem_of("(a*)*"), "a repeat of what may be empty");
}

TEST(Pattern, refuses_what_python_refuses) {
  EXPECT_EQ(problem_of("*a"), "nothing to repeat");
  EXPECT_EQ(problem_of("a**"), "multiple repeat");
  EXPECT_EQ(problem_of("^*"), "nothing to repeat");
  EXPECT_EQ(problem_of("a)"), "unbalanced parenthesis");
  EXPECT_EQ(problem_of("(a"), "missing ), unterminated subpattern");
  EXPECT_EQ(problem_of("[a"), "unterminated character set");
  EXPECT_EQ(problem_of("[b-a]"), "bad character range");
  EXPECT_EQ(problem_of("\\q"), "bad escape");
  EXPECT_EQ(problem_of("a\\"), "unexpected end of pattern");
  EXPECT_EQ(problem_of("a{3,2}"), "min repeat greater than max repeat");
  EXPECT_EQ(problem_of("(?P<a>b)(?P<a>c)"), "redefinition of group name");
}

TEST(Pattern, names_the_texts_that_must_be_there) {
  EXPECT_EQ(
      Pattern(".*dense_\\d+.*(?:/kernel)").literals(),
      (Literals{"dense_", "/kernel"}));
  EXPECT_EQ(Pattern("(query|key)/kernel").literals(), Literals{"/kernel"});
  // The last character may be absent, so it ends a literal.
  EXPECT_EQ(Pattern("dense?").literals(), Literals{"dens"});
  EXPECT_EQ(Pattern("(?i)dense").literals(), Literals{});
  EXPECT_EQ(Pattern("dense/kernel|a").literals(), Literals{});
}

TEST(Pattern, pieces_are_found_in_order_without_overlap) {
  EXPECT_TRUE(matches("ab.*ba", "abba"));
  EXPECT_FALSE(matches("ab.*ba", "aba"));
  EXPECT_TRUE(matches(".*a.*a.*", "xaya"));
  EXPECT_FALSE(matches(".*a.*a.*", "xay"));
  EXPECT_TRUE(matches("a.*?", "a"));
}

TEST(Pattern, repeats_of_a_class_end_where_the_class_does) {
  EXPECT_TRUE(matches(".*stage_\\d+/.*kernel", "a/stage_12/b/kernel"));
  EXPECT_FALSE(matches(".*stage_\\d+/.*kernel", "a/stage_/b/kernel"));
  // The first "stage_1" does not go on as the pattern does.
  EXPECT_TRUE(matches(".*stage_\\d+/k", "stage_1a/stage_22/k"));
  EXPECT_TRUE(matches("a[0-9]?[a-z]{2}", "abc"));
  EXPECT_FALSE(matches("a[0-9]?[a-z]{2}", "a12bc"));
  // Next to `.*` the least is enough, also where more would take too much.
  EXPECT_TRUE(matches("a\\d+.*1", "a11"));
  EXPECT_TRUE(matches(".*\\d{2,}/k", "12345/k"));
  EXPECT_FALSE(matches(".*\\d{2,}/k", "a5/k"));
  EXPECT_TRUE(matches(".*a{0}b*", "x"));
}

TEST(Pattern, a_repeat_without_a_plain_end_may_give_back) {
  EXPECT_TRUE(matches("\\w+_1", "a_1_1"));
  EXPECT_TRUE(matches("[a-z]*ab?c", "aabaabc"));
  EXPECT_FALSE(matches("[a-z]*ab?c", "aabaab"));
}

TEST(LiteralIndex, a_candidate_has_all_its_literals_in_the_text) {
  const LiteralIndex index({{"dense", "kernel"}, {"bias"}, {}, {"ens"}});
  EXPECT_EQ(candidates(index, "dense/kernel"), (std::vector{0, 2, 3}));
  EXPECT_EQ(candidates(index, "conv/kernel"), (std::vector{2}));
  EXPECT_EQ(candidates(index, "bias"), (std::vector{1, 2}));
  EXPECT_EQ(candidates(index, "bi\nas"), (std::vector{2}));
}

TEST(LiteralIndex, finds_a_literal_within_and_behind_another) {
  const LiteralIndex index({{"abcd"}, {"bc"}, {"cx"}, {"bcx"}, {"abc"}});
  EXPECT_EQ(candidates(index, "abcd"), (std::vector{0, 1, 4}));
  EXPECT_EQ(candidates(index, "aabcx"), (std::vector{1, 2, 3, 4}));
}

TEST(LiteralIndex, has_no_limit_at_its_fixed_space) {
  std::vector<std::vector<std::string>> literals;
  for (int i = 0; i < 2000; ++i) {
    literals.push_back({"layer_" + std::to_string(i) + "/"});
  }
  const LiteralIndex index(literals);
  EXPECT_EQ(candidates(index, "m/layer_1234/kernel"), (std::vector{1234}));
}

}  // namespace
}  // namespace torch_mesh

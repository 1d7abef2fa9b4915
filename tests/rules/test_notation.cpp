// test_notation.cpp: lines of rule are read, printed, and refused with reasons.

#include <gtest/gtest.h>

#include <torch_mesh/error.h>
#include <torch_mesh/rule.h>

#include "rules/families.h"

namespace torch_mesh {
namespace {

// The message of the error that parsing throws; "" if it throws none.
std::string error_of(const std::string& text) {
  try {
    Rule::parse(text);
  } catch (const CoreError& error) {
    return error.what();
  }
  return "";
}

// The character at which the message puts its mark.
size_t place_of_error(const std::string& text) {
  const std::string message = error_of(text);
  const size_t caret = message.find("^\nHint");
  return caret == std::string::npos ? std::string::npos
                                    : caret - message.rfind('\n', caret) - 3;
}

TEST(Notation, PrintsTheNormalForm) {
  EXPECT_EQ(Rule::parse("  m   k,k n->m n ")->str(), "m k, k n -> m n");
  EXPECT_EQ(
      Rule::parse("x*,x*->x* reduces( dim ,keepdim )   linear(0   1)")->str(),
      "x*, x* -> x* reduces(dim, keepdim) linear(0 1)");
  EXPECT_EQ(Rule::parse("k,k->.")->str(), "k, k -> .");
  EXPECT_EQ(
      Rule::parse("n (g  c) s*,each:x*,~ m 1,_ -> b* n*1 ^g|. ->")->str(),
      "n (g c) s*, each: x*, ~m 1, _ -> b* n*1 ^g | . ->");
}

TEST(Notation, ReadsItsNormalFormBackForEveryRuleOfTheTable) {
  const std::vector<std::string> names = rule_names();
  ASSERT_GT(names.size(), 200u);
  for (const std::string& name : names) {
    const std::string text = find_rule(name)->str();
    EXPECT_EQ(Rule::parse(text)->str(), text) << name;
  }
}

TEST(Notation, RefusesARuleWithoutAnArrowAndShowsTheEnd) {
  EXPECT_EQ(place_of_error("m k, k n"), 8u);
  EXPECT_NE(error_of("m k, k n").find("has no ->"), std::string::npos);
  EXPECT_NE(error_of("m k, k n").find("[rule-text]"), std::string::npos);
}

TEST(Notation, RefusesAnEmptyTermAndShowsItsPlace) {
  EXPECT_EQ(place_of_error("m k, -> m"), 5u);
  EXPECT_EQ(place_of_error("m -> n,"), 7u);
}

TEST(Notation, RefusesAModifierThatItDoesNotKnow) {
  EXPECT_EQ(place_of_error("x* -> x* shrinks(dim)"), 9u);
  EXPECT_NE(
      error_of("x* -> x* shrinks(dim)").find("shrinks"), std::string::npos);
}

TEST(Notation, RefusesAWordAboutKernelsThatItDoesNotKnow) {
  EXPECT_EQ(place_of_error("x* -> x* overwrite"), 9u);
  EXPECT_EQ(place_of_error("x* -> x* strided(0)"), 9u);
  rules::RuleTable table;
  try {
    table.add_words({"mylib::g"}, "strided shrinks");
    FAIL() << "the line is refused";
  } catch (const CoreError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("no word \"shrinks\""), std::string::npos);
    EXPECT_NE(message.find("(character 8)"), std::string::npos);
    EXPECT_NE(message.find("[rule-text]"), std::string::npos);
  }
  // A word that says how an op shards needs terms.
  EXPECT_THROW(table.add_words({"mylib::g"}, "filled"), CoreError);
}

TEST(Notation, RefusesAWrongNumberOfArguments) {
  EXPECT_EQ(place_of_error("x* -> x* transposes(dim0)"), 9u);
  EXPECT_EQ(place_of_error("x* -> x* reduces()"), 16u);
}

TEST(Notation, RefusesAnOpenBracket) {
  EXPECT_EQ(place_of_error("x* -> x* whole(dim"), 14u);
  EXPECT_NE(error_of("(b t -> b").find("character 5"), std::string::npos);
}

TEST(Notation, RefusesALetterThatNoTermHas) {
  EXPECT_EQ(place_of_error("m k -> m whole(z)"), 9u);
}

TEST(Notation, RefusesALinearInputThatTheRuleLacks) {
  EXPECT_EQ(place_of_error("m k, k n -> m n linear(2)"), 16u);
  EXPECT_EQ(error_of("x*, ... -> x* linear(3)"), "");
}

TEST(Notation, RefusesDimArgumentsWithoutAGroupToCount) {
  EXPECT_EQ(place_of_error("m k -> m reduces(dim)"), 9u);
}

TEST(Notation, RefusesTextBehindARule) {
  EXPECT_EQ(place_of_error("m -> m )"), 7u);
}

TEST(RuleTable, SaysWordsOfAnOpInWhicheverAlternativeTheyStand) {
  register_rule("mylib::h", "m -> m strided|x* -> x* keeps_format");
  EXPECT_TRUE(rules::op_says("mylib::h", "strided"));
  EXPECT_TRUE(rules::op_says("mylib::h", "keeps_format"));
  register_rule("mylib::h", "m -> m");
  EXPECT_FALSE(rules::op_says("mylib::h", "strided"));
  EXPECT_TRUE(rules::op_says("aten::mm.out", "strided"));
  EXPECT_FALSE(rules::op_says("aten::baddbmm", "strided"));
}

TEST(RuleTable, SaysWordsOfOpsWithoutARule) {
  EXPECT_EQ(find_rule("aten::eq_.Scalar"), nullptr);
  EXPECT_TRUE(rules::op_says("aten::eq_.Scalar", "refuses_overlap"));
  EXPECT_FALSE(rules::op_says("aten::eq.Scalar", "refuses_overlap"));
}

TEST(RuleTable, SharesWordsWithOpsInPlace) {
  EXPECT_TRUE(rules::op_says("aten::copy_", "overwrites"));
  EXPECT_TRUE(rules::op_says("aten::random_.to", "overwrites"));
  EXPECT_FALSE(rules::op_says("aten::add_.Tensor", "overwrites"));
}

TEST(RuleTable, FindsTheMostSpecificName) {
  EXPECT_EQ(find_rule("aten::sum.dim_IntList"), find_rule("aten::sum"));
  EXPECT_NE(find_rule("aten::max.dim"), find_rule("aten::max"));
  EXPECT_EQ(find_rule("aten::no_such_op"), nullptr);
}

TEST(RuleTable, GivesInPlaceOpsTheirFunctionalOpsRule) {
  EXPECT_EQ(find_rule("aten::add_.Tensor"), find_rule("aten::add.Tensor"));
  EXPECT_EQ(find_rule("aten::zero_"), find_rule("aten::zero"));
  // Adding a number is not linear: it has no line of its own.
  EXPECT_EQ(find_rule("aten::add_.Scalar"), nullptr);
}

TEST(RuleTable, TakesNewRulesAndReplacesThem) {
  register_rule("mylib::f", "b x, x y -> b y");
  EXPECT_EQ(find_rule("mylib::f")->str(), "b x, x y -> b y");
  register_rule("mylib::f", "b x, x -> b");
  EXPECT_EQ(find_rule("mylib::f")->str(), "b x, x -> b");
  EXPECT_THROW(register_rule("mylib::g", "b x"), CoreError);
  EXPECT_EQ(find_rule("mylib::g"), nullptr);
}

TEST(ForeachOps, AreNamedAfterTheOpOnOneElement) {
  using rules::foreach_element_op;
  EXPECT_EQ(
      foreach_element_op("aten::_foreach_add_.List"), "aten::add_.Tensor");
  EXPECT_EQ(
      foreach_element_op("aten::_foreach_mul.ScalarList"), "aten::mul.Scalar");
  EXPECT_EQ(foreach_element_op("aten::_foreach_sqrt"), "aten::sqrt");
  EXPECT_EQ(
      foreach_element_op("aten::_foreach_lerp_.Scalar"), "aten::lerp_.Scalar");
  EXPECT_EQ(
      foreach_element_op("aten::_foreach_addcdiv_.ScalarList"),
      "aten::addcdiv_");
  EXPECT_EQ(
      foreach_element_op("aten::_foreach_norm.Scalar"),
      "aten::linalg_vector_norm");
  EXPECT_EQ(foreach_element_op("aten::add.Tensor"), "");
}

TEST(ForeachOps, AreGroupsOfElementsUnlessTheyReduceOrMultiplyMatrices) {
  using rules::is_elementwise_group;
  EXPECT_TRUE(is_elementwise_group("aten::_foreach_add_.List"));
  EXPECT_TRUE(is_elementwise_group("aten::_fused_adam_.tensor_lr"));
  EXPECT_FALSE(is_elementwise_group("aten::_foreach_norm.Scalar"));
  EXPECT_FALSE(is_elementwise_group("aten::_foreach_mm"));
  EXPECT_FALSE(is_elementwise_group("aten::mm"));
}

}  // namespace
}  // namespace torch_mesh

// test_op_sizes.cpp: rules that ask the op, and places of a device's part.

#include <gtest/gtest.h>

#include "rules/calls.h"

namespace torch_mesh {
namespace {

using testing::Call;
using testing::resolved_text;

Resolved resolve(const std::string& rule, const Call& call) {
  Resolved resolved;
  EXPECT_TRUE(Rule::parse(rule)->resolve(call.get(), resolved)) << rule;
  return resolved;
}

TEST(NewDims, HaveTheSizesThatTheOpGivesAndAreWhole) {
  const std::string call = "a:f32[2,3,4]";
  EXPECT_EQ(
      resolved_text("b* m n -> b* m u", Call(call).gives({{2, 3, 7}})),
      "b0 m n -> b0 m 7!; 0 sums n");
  EXPECT_EQ(
      resolved_text("b m n -> b y*", Call(call).gives({{2, 5, 6, 1}})),
      "b m n -> b 5! 6! 1; 0 sums m; 0 sums n");
  EXPECT_EQ(resolved_text("b m n -> b u", Call(call)), "misfit");
  EXPECT_EQ(
      resolved_text("b m n -> b u", Call(call).gives({{2, 5, 6}})), "misfit");
}

TEST(Remakes, TakesTheSizesOfTheNamedDimsFromTheOp) {
  const std::string rule = "x* -> x* remakes(dim)";
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[4,6] dim:[-1]").gives({{4, 5}})),
      "x0 x1! -> x0 5!");
  EXPECT_EQ(resolved_text(rule, Call("a:f32[4,6] dim:[1]")), "misfit");
}

TEST(Checked, FitsOnlyWhereTheOpGivesTheSameSizes) {
  const std::string rule = "b* m, b* n -> b* n checked";
  const std::string call = "a:f32[3,4] b:f32[1,5]";
  EXPECT_EQ(resolved_text(rule, Call(call).gives({{1, 5}})), "misfit");
  EXPECT_NE(resolved_text(rule, Call(call).gives({{3, 5}})), "misfit");
}

TEST(Shifts, MoveAnArgumentByWhereTheDevicesPartBegins) {
  const Resolved resolved = resolve(
      "b* m n -> b* m n shifts(diagonal, m, n)", Call("a:f32[4,6] diagonal:1"));
  ASSERT_EQ(resolved.local_sizes.size(), 1u);
  const LocalSizes::Element& element = resolved.local_sizes[0].elements[0];
  EXPECT_TRUE(element.keep);
  ASSERT_EQ(element.up.size(), 1u);
  ASSERT_EQ(element.down.size(), 1u);
  EXPECT_EQ(resolved.factors[element.up[0]].name, "m");
  EXPECT_EQ(resolved.factors[element.down[0]].name, "n");
}

TEST(Filled, IsSaidOfTheWholeCall) {
  EXPECT_TRUE(resolve("x* -> x* filled", Call("a:f32[4]")).filled);
  EXPECT_FALSE(resolve("x* -> x*", Call("a:f32[4]")).filled);
}

}  // namespace
}  // namespace torch_mesh

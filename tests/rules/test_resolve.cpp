// test_resolve.cpp: what each word of the notation says of concrete calls.

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

// --- terms -------------------------------------------------------------------

TEST(Terms, ALetterOnTheLeftOnlyIsContracted) {
  EXPECT_EQ(
      resolved_text("m k, k n -> m n", Call("a:f32[8,16] b:f32[16,4]")),
      "m k, k n -> m n; 0 sums k");
}

TEST(Terms, SizesThatDisagreeDoNotFit) {
  EXPECT_EQ(
      resolved_text("m k, k n -> m n", Call("a:f32[8,16] b:f32[15,4]")),
      "misfit");
}

TEST(Terms, AnotherNumberOfDimsDoesNotFit) {
  EXPECT_EQ(resolved_text("m k -> m", Call("a:f32[8]")), "misfit");
  EXPECT_EQ(resolved_text(". -> .", Call("a:f32[8]")), "misfit");
}

TEST(Terms, AnotherNumberOfTensorsDoesNotFit) {
  EXPECT_EQ(resolved_text("m, m -> m", Call("a:f32[8]")), "misfit");
  EXPECT_EQ(resolved_text("m -> m", Call("a:f32[8] b:f32[8]")), "misfit");
}

TEST(Terms, AnAbsentOptionalTensorIsSkipped) {
  EXPECT_EQ(
      resolved_text(
          "m k, k n, n -> m n", Call("a:f32[8,6] b:f32[6,4] bias:none_tensor")),
      "m k, k n -> m n; 0 sums k");
}

TEST(Terms, GroupsAlignFromTheRightAndBroadcast) {
  EXPECT_EQ(
      resolved_text("x*, x* -> x*", Call("a:f32[2,1,4] b:f32[3,1]")),
      "x0 1 x2, x1 1 -> x0 x1 x2");
}

TEST(Terms, AGroupCanBeEmpty) {
  EXPECT_EQ(
      resolved_text("x*, x* -> x*", Call("a:f32[] b:f32[]")), "., . -> .");
  EXPECT_EQ(
      resolved_text("x*, x* -> x*", Call("a:f32[5] b:f32[]")), "x0, . -> x0");
}

TEST(Terms, GroupsThatDoNotBroadcastDoNotFit) {
  EXPECT_EQ(
      resolved_text("x*, x* -> x*", Call("a:f32[2,3] b:f32[2]")), "misfit");
}

TEST(Terms, SizeOneAgainstSizeZeroGivesZero) {
  const Resolved resolved = resolve("x*, x* -> x*", Call("a:f32[1] b:f32[0]"));
  EXPECT_EQ(resolved.factors[0].size, 0);
  EXPECT_TRUE(resolved.inputs[0][0].empty());
}

TEST(Terms, ATildeTermBroadcastsToTheOthers) {
  const std::string rule = "~m n, m k, k n -> m n";
  EXPECT_EQ(
      resolved_text(rule, Call("c:f32[4] a:f32[8,6] b:f32[6,4]")),
      "n, m k, k n -> m n; 0 sums k");
  EXPECT_EQ(
      resolved_text(rule, Call("c:f32[1,4] a:f32[8,6] b:f32[6,4]")),
      "1 n, m k, k n -> m n; 0 sums k");
  EXPECT_EQ(
      resolved_text(rule, Call("c:f32[] a:f32[8,6] b:f32[6,4]")),
      "., m k, k n -> m n; 0 sums k");
  EXPECT_EQ(
      resolved_text(rule, Call("c:f32[3] a:f32[8,6] b:f32[6,4]")), "misfit");
}

TEST(Terms, AMergedDimHasItsFactorsInOrder) {
  EXPECT_EQ(
      resolved_text("(b t) d, b -> b t d", Call("a:f32[12,5] b:f32[3]")),
      "(b t) d, b -> b t d");
  EXPECT_EQ(
      resolved_text("(b t) d, b -> b t d", Call("a:f32[13,5] b:f32[3]")),
      "misfit");
  EXPECT_EQ(resolved_text("(b t) -> b t", Call("a:f32[12]")), "misfit");
}

TEST(Terms, AnUnderscoreTermIsReplicated) {
  EXPECT_EQ(
      resolved_text("x*, _ -> x*", Call("a:f32[8] b:f32[4,1]")),
      "x0, 4! 1 -> x0");
}

TEST(Terms, ANumberIsADimOfThatSize) {
  EXPECT_EQ(resolved_text("x* -> x* 2", Call("a:f32[8]")), "x0 -> x0 2!");
  EXPECT_EQ(resolved_text("x* 2 -> x*", Call("a:f32[8,3]")), "misfit");
}

TEST(Terms, DotsRepeatTheTermBefore) {
  EXPECT_EQ(
      resolved_text("x*, ... -> x*", Call("a:f32[4] b:f32[1] p:none c:f32[4]")),
      "x0, 1, x0 -> x0");
}

TEST(Terms, ACaretNamesWhatAnOutputDoesNotDependOn) {
  Call call("g:f32[2,3] x:f32[2,5]");
  call.returns(2);
  EXPECT_EQ(
      resolved_text("n o, n i -> o i, o ^i", call),
      "n o, n i -> o i, o; 0 sums n; 1 sums n");
}

TEST(Terms, AFactorOnTheRightOnlyIsWhole) {
  const Call call("g:f32[7,4] i:i64[7] rows:10");
  EXPECT_EQ(
      resolved_text("i d, i -> v d size(v, rows)", call),
      "i d, i -> v! d; 0 sums i");
}

TEST(Terms, AlternativesAreTriedInOrder) {
  const std::string rule = "m n -> n m | m -> m";
  EXPECT_EQ(resolved_text(rule, Call("a:f32[2,3]")), "m n -> n m");
  EXPECT_EQ(resolved_text(rule, Call("a:f32[2]")), "m -> m");
  EXPECT_EQ(resolved_text(rule, Call("a:f32[2,3,4]")), "misfit");
}

TEST(Terms, ResultsOfAnotherNumberDoNotFit) {
  Call call("a:f32[2]");
  EXPECT_EQ(resolved_text("x* -> x*", call.returns(2)), "misfit");
}

TEST(Terms, AnInPlaceOpKeepsTheSizesOfWhatItWrites) {
  EXPECT_EQ(
      resolved_text("x*, x* -> x*", Call("a!:f32[4,3] b:f32[3]")),
      "x0 x1, x1 -> x0 x1");
  EXPECT_EQ(
      resolved_text("x*, x* -> x*", Call("a!:f32[3] b:f32[4,3]")), "misfit");
  EXPECT_EQ(
      resolved_text("x*, x* -> x*", Call("a!:f32[1] b:f32[4]")), "misfit");
}

TEST(Terms, OutArgumentsLookLikeTheResults) {
  EXPECT_EQ(
      resolved_text(
          "m k, k n -> m n", Call("a:f32[2,3] b:f32[3,4] out!:f32[2,4]")),
      "m k, k n, m n -> m n; 0 sums k");
  EXPECT_EQ(
      resolved_text(
          "m k, k n -> m n", Call("a:f32[2,3] b:f32[3,4] out!:f32[0]")),
      "misfit");
}

// --- conditions and sets
// -------------------------------------------------------

TEST(Conditions, CompareIntegersFlagsTextsAndAbsence) {
  const std::string rule =
      "m -> m when(a=1, b=true) | m -> . when(c=sum) | m -> m m when(d=None)";
  EXPECT_EQ(resolved_text(rule, Call("x:f32[4] a:1 b:true")), "m -> m");
  EXPECT_EQ(
      resolved_text(rule, Call("x:f32[4] a:1 b:false c:'sum'")),
      "m -> .; 0 sums m");
  EXPECT_EQ(
      resolved_text(rule, Call("x:f32[4] a:2 b:true c:'mean' d:none")),
      "m -> m m");
  EXPECT_EQ(
      resolved_text(rule, Call("x:f32[4] a:2 b:true c:'mean' d:3")), "misfit");
}

TEST(Conditions, CanBeNegated) {
  EXPECT_EQ(resolved_text("m -> m when(a!=1)", Call("x:f32[4] a:1")), "misfit");
  EXPECT_EQ(resolved_text("m -> m when(a!=1)", Call("x:f32[4] a:0")), "m -> m");
}

TEST(Conditions, FloatingIsADtypeThatKeepsPartsOfASum) {
  const std::string rule = "m -> m when(dtype=floating)";
  EXPECT_EQ(resolved_text(rule, Call("x:f32[4] dtype:none")), "m -> m");
  EXPECT_EQ(resolved_text(rule, Call("x:f32[4] dtype:6")), "m -> m");
  EXPECT_EQ(resolved_text(rule, Call("x:f32[4] dtype:15")), "m -> m");
  EXPECT_EQ(resolved_text(rule, Call("x:f32[4] dtype:4")), "misfit");
  EXPECT_EQ(resolved_text(rule, Call("x:f32[4] dtype:11")), "misfit");
}

TEST(Sets, NumberTheParametersThatTakeTensors) {
  const std::string rule = "each: x*, x*, x* -> x* linear(*, 0 2, 1) adds(2)";
  const Resolved resolved =
      resolve(rule, Call("l:{f32[4],f32[4]} p:3 a:f32[4] b:f32[4]"));
  EXPECT_EQ(
      resolved.linear,
      (std::vector<std::vector<int>>{{0, 1, 2, 3}, {0, 1, 3}, {2}}));
  EXPECT_EQ(resolved.adds, std::vector<int>{3});
}

TEST(Sets, LeaveAbsentTensorsOut) {
  const Resolved resolved = resolve(
      "m, m, m -> m linear(0 1, 1) adds(1)",
      Call("a:f32[4] b:none_tensor c:f32[4]"));
  EXPECT_EQ(resolved.linear, (std::vector<std::vector<int>>{{0}}));
  EXPECT_TRUE(resolved.adds.empty());
}

TEST(Random, OpsFitNoCall) {
  EXPECT_EQ(resolved_text("x* -> x* random", Call("a:f32[4]")), "misfit");
}

// --- kinds of factors
// ------------------------------------------------------------

TEST(Whole, TakesLettersGroupsAndDims) {
  EXPECT_EQ(
      resolved_text("m k -> m k whole(k)", Call("a:f32[4,5]")), "m k! -> m k!");
  EXPECT_EQ(
      resolved_text("x* -> x* whole(x*)", Call("a:f32[4,5]")),
      "x0! x1! -> x0! x1!");
  EXPECT_EQ(
      resolved_text("x* -> x* whole(dim)", Call("a:f32[4,5] dim:-1")),
      "x0 x1! -> x0 x1!");
  EXPECT_EQ(
      resolved_text("x* -> x* whole(dims)", Call("a:f32[4,5,6] dims:[0,-1]")),
      "x0! x1 x2! -> x0! x1 x2!");
}

TEST(Whole, WithoutDimsMeansAllOfThem) {
  EXPECT_EQ(
      resolved_text("x* -> x* whole(dims)", Call("a:f32[4,5] dims:[]")),
      "x0! x1! -> x0! x1!");
  EXPECT_EQ(
      resolved_text("x* -> x* whole(dims)", Call("a:f32[4,5] dims:none")),
      "x0! x1! -> x0! x1!");
}

TEST(Whole, OutOfRangeDoesNotFit) {
  EXPECT_EQ(
      resolved_text("x* -> x* whole(dim)", Call("a:f32[4] dim:1")), "misfit");
  EXPECT_EQ(
      resolved_text("x* -> x* whole(dim)", Call("a:f32[] dim:-1")), ". -> .");
}

TEST(Reduces, ContractsTheDimsThatAreNamed) {
  const std::string rule = "x* -> x* reduces(dim, keepdim)";
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[4,5] dim:[-1] keepdim:false")),
      "x0 x1 -> x0; 0 sums x1");
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[4,5] dim:0 keepdim:true")),
      "x0 x1 -> 1 x1; 0 sums x0");
}

TEST(Reduces, WithoutDimsContractsAll) {
  const std::string rule = "x* -> x* reduces(dim, keepdim)";
  const std::string all = "x0 x1 -> .; 0 sums x0; 0 sums x1";
  EXPECT_EQ(resolved_text(rule, Call("a:f32[4,5]")), all);
  EXPECT_EQ(resolved_text(rule, Call("a:f32[4,5] dim:none")), all);
  EXPECT_EQ(resolved_text(rule, Call("a:f32[4,5] dim:[]")), all);
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[4,5] dim:none keepdim:true")),
      "x0 x1 -> 1 1; 0 sums x0; 0 sums x1");
  EXPECT_EQ(resolved_text(rule, Call("a:f32[] dim:0")), ". -> .");
}

TEST(Reduces, MaximaAreWholeAndMeansRewritten) {
  const Call call("a:f32[4,5] dim:1 keepdim:false");
  EXPECT_EQ(
      resolved_text("x* -> x* reduces_whole(dim, keepdim)", call),
      "x0 x1! -> x0");
  EXPECT_EQ(
      resolved_text("x* -> x* rewrites(dim, keepdim)", call), "x0 x1? -> x0");
}

// --- rearranging
// ---------------------------------------------------------------

TEST(Permutes, TakesNegativeDims) {
  const std::string rule = "x* -> x* permutes(dims)";
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[2,3,4] dims:[-1,0,1]")),
      "x0 x1 x2 -> x2 x0 x1");
  EXPECT_EQ(resolved_text(rule, Call("a:f32[2,3] dims:[0,0]")), "misfit");
  EXPECT_EQ(resolved_text(rule, Call("a:f32[2,3] dims:[0]")), "misfit");
}

TEST(Transposes, SwapsTwoDims) {
  const std::string rule = "x* -> x* transposes(d, e)";
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[2,3,4] d:0 e:-1")),
      "x0 x1 x2 -> x2 x1 x0");
  EXPECT_EQ(resolved_text(rule, Call("a:f32[] d:0 e:-1")), ". -> .");
}

TEST(Selects, DropsTheDimAndKeepsItWhole) {
  EXPECT_EQ(
      resolved_text("x* -> x* selects(dim)", Call("a:f32[2,3] dim:-2")),
      "x0! x1 -> x1");
}

TEST(Slices, OfTheWholeDimPass) {
  const std::string rule = "x* -> x* slices(dim, start, end, step)";
  const std::string passes = "x0 x1 -> x0 x1";
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[8,3] dim:0 start:none end:none step:1")),
      passes);
  EXPECT_EQ(
      resolved_text(
          rule,
          Call("a:f32[8,3] dim:0 start:-9 end:9223372036854775807 step:1")),
      passes);
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[8,3] dim:0 start:0 end:8 step:2")),
      "x0! x1 -> 4! x1");
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[8,3] dim:0 start:-3 end:-1 step:1")),
      "x0! x1 -> 2! x1");
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[8,3] dim:0 start:5 end:2 step:1")),
      "x0! x1 -> 0! x1");
}

TEST(Unslices, GivesTheSizesOfTheInputLocally) {
  const Call call("g:f32[4,2] sizes:[4,8] dim:1 start:2 end:4 step:1");
  const Resolved resolved =
      resolve("x* -> x* unslices(sizes, dim, start, end, step)", call);
  EXPECT_EQ(testing::text_of(resolved), "x0 x1! -> x0 8!");
  ASSERT_EQ(resolved.local_sizes.size(), 1u);
  EXPECT_EQ(resolved.local_sizes[0].arg, 1);
  EXPECT_EQ(
      resolved.local_sizes[0].elements[0].factors, resolved.outputs[0][0]);
}

TEST(Unsqueezes, AddsADimWithoutFactors) {
  EXPECT_EQ(
      resolved_text("x* -> x* unsqueezes(dim)", Call("a:f32[2,3] dim:-1")),
      "x0 x1 -> x0 x1 1");
  EXPECT_EQ(
      resolved_text("x* -> x* unsqueezes(dim)", Call("a:f32[] dim:0")),
      ". -> 1");
}

TEST(Squeezes, DropsNamedDimsOfSizeOne) {
  const std::string rule = "x* -> x* squeezes(dim)";
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[2,1,3] dim:1")), "x0 x1! x2 -> x0 x2");
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[2,1,3] dim:[-2,0]")),
      "x0? x1! x2 -> x0? x2");
}

TEST(Squeezes, WithoutDimsIsRewrittenWhereADeviceMightHoldOneElement) {
  EXPECT_EQ(
      resolved_text("x* -> x* squeezes(dim)", Call("a:f32[2,1,3]")),
      "x0? x1! x2? -> x0? x2?");
}

TEST(Expands, PassesTheDimsThatItKeeps) {
  const Resolved resolved =
      resolve("x* -> x* expands(size)", Call("a:f32[4,1] size:[3,-1,5]"));
  EXPECT_EQ(testing::text_of(resolved), "x0 x1! -> 3! x0 5!");
  ASSERT_EQ(resolved.local_sizes.size(), 1u);
  EXPECT_EQ(resolved.local_sizes[0].elements[1].factors, resolved.inputs[0][0]);
}

TEST(Expands, OfALargerDimDoesNotFit) {
  EXPECT_EQ(
      resolved_text("x* -> x* expands(size)", Call("a:f32[4] size:[8]")),
      "misfit");
}

TEST(Repeats, PassesDimsThatStandOnce) {
  EXPECT_EQ(
      resolved_text("x* -> x* repeats(n)", Call("a:f32[2,3] n:[4,1,2]")),
      "x0 x1! -> 4! x0 6!");
}

TEST(Splits, GivesPiecesAndKeepsTheDimWhole) {
  const std::string rule = "x* -> each: x* splits(dim, n)";
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[2,7] n:3 dim:1").returns_list()),
      "x0 x1! -> x0 3!, x0 3!, x0 1");
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[2,7] n:[5,2] dim:-1").returns_list()),
      "x0 x1! -> x0 5!, x0 2!");
  EXPECT_EQ(
      resolved_text(rule, Call("a:f32[2,7] n:[5,1] dim:-1").returns_list()),
      "misfit");
}

TEST(Unbinds, GivesOnePieceForEachIndex) {
  EXPECT_EQ(
      resolved_text(
          "x* -> each: x* unbinds(dim)",
          Call("a:f32[2,3] dim:0").returns_list()),
      "x0! x1 -> x1, x1");
}

TEST(Joins, AddsUpTheDimAndSharesTheOthers) {
  const std::string rule = "each: x* -> x* joins(dim)";
  EXPECT_EQ(
      resolved_text(rule, Call("l:{f32[2,3],f32[2,4]} dim:-1")),
      "x0 3!, x0 4! -> x0 7!");
  EXPECT_EQ(resolved_text(rule, Call("l:{f32[2,3],f32[1,4]} dim:1")), "misfit");
  EXPECT_EQ(
      resolved_text(rule, Call("l:{f32[0],f32[2,4]} dim:1")),
      "0!, x0 4! -> x0 4!");
}

TEST(Stacks, AddsADimForTheList) {
  EXPECT_EQ(
      resolved_text(
          "each: x* -> x* stacks(dim)",
          Call("l:{f32[2],f32[2],f32[2]} dim:-1")),
      "x0, x0, x0 -> x0 3!");
}

TEST(Diagonals, PutsTheDiagonalLast) {
  EXPECT_EQ(
      resolved_text(
          "x* -> x* diagonals(o, d, e)", Call("a:f32[2,5,4] o:1 d:1 e:2")),
      "x0 x1! x2! -> x0 3!");
}

TEST(Pads, CountsFromTheLastDim) {
  EXPECT_EQ(
      resolved_text("x* -> x* pads(pad)", Call("a:f32[2,5,4] pad:[1,2,0,0]")),
      "x0 x1 x2! -> x0 x1 7!");
}

// --- views
// -----------------------------------------------------------------------

std::string view_text(const std::string& from, const std::string& to) {
  return resolved_text(
      "x* -> x* view(size)", Call("a:f32" + from + " size:" + to));
}

TEST(Views, OfTheSameSizesPass) {
  EXPECT_EQ(view_text("[4,6]", "[4,6]"), "x0 x1 -> x0 x1");
}

TEST(Views, SplitADimIntoFactors) {
  EXPECT_EQ(view_text("[12,5]", "[3,4,5]"), "(x0.0 x0.1) x1 -> x0.0 x0.1 x1");
}

TEST(Views, MergeDimsIntoOne) {
  EXPECT_EQ(view_text("[3,4,5]", "[12,-1]"), "x0.0 x0.1 x2 -> (x0.0 x0.1) x2");
}

TEST(Views, ShareFactorsWhereCutPointsAreNested) {
  const Resolved resolved =
      resolve("x* -> x* view(size)", Call("a:f32[6,4] size:[2,12]"));
  EXPECT_EQ(testing::text_of(resolved), "(x0.0 x0.1) x0.2 -> x0.0 (x0.1 x0.2)");
  EXPECT_EQ(resolved.factors[0].size, 2);
  EXPECT_EQ(resolved.factors[1].size, 3);
  EXPECT_EQ(resolved.factors[2].size, 4);
}

TEST(Views, AreWholeWhereElementsMoveBetweenDims) {
  EXPECT_EQ(view_text("[7,2,3]", "[7,3,2]"), "x0 x1! x2! -> x0 3! 2!");
}

TEST(Views, KeepDimsOfSizeOneOutOfTheMatter) {
  EXPECT_EQ(view_text("[4,1,6]", "[1,4,6,1]"), "x0 x1! x2 -> 1 x0 x2 1");
  EXPECT_EQ(view_text("[1]", "[]"), "x0! -> .");
  EXPECT_EQ(view_text("[]", "[1,1]"), ". -> 1 1");
}

TEST(Views, OfNothingAreWhole) {
  EXPECT_EQ(view_text("[0,3]", "[3,0]"), "x0! x1! -> 3! 0!");
  EXPECT_EQ(view_text("[0]", "[0,-1]"), "misfit");
}

TEST(Views, OfAnotherNumberOfElementsDoNotFit) {
  EXPECT_EQ(view_text("[4,6]", "[5,-1]"), "misfit");
  EXPECT_EQ(view_text("[4,6]", "[25]"), "misfit");
}

TEST(Views, HaveLocalSizesInPlaceOfEveryElement) {
  const Resolved resolved =
      resolve("x* -> x* view(size)", Call("a:f32[3,4,5] size:[-1,5]"));
  ASSERT_EQ(resolved.local_sizes.size(), 1u);
  EXPECT_EQ(resolved.local_sizes[0].arg, 1);
  EXPECT_EQ(
      resolved.local_sizes[0].elements[0].factors, resolved.outputs[0][0]);
  EXPECT_FALSE(resolved.local_sizes[0].elements[0].keep);
}

// --- sizes, windows, indices
// -------------------------------------------------------

TEST(Sizes, BindAGroupAheadOfTheTensors) {
  EXPECT_EQ(
      resolved_text(
          "b* n*, n* -> b* n*, b* n*1 size(n*, shape)",
          Call("x:f32[2,3,4,5] shape:[4,5] w:f32[4,5]").returns(2)),
      "b0 b1 n0 n1, n0 n1 -> b0 b1 n0 n1, b0 b1 1 1; 1 sums n0; 1 sums n1");
}

TEST(Sizes, OfSeveralLettersAreTheirProduct) {
  const Resolved resolved = resolve(
      "(g c) -> (g c) size(g, group) size(g c, C)",
      Call("x:f32[6] C:6 group:2"));
  EXPECT_EQ(testing::text_of(resolved), "(g c) -> (g c)");
  ASSERT_EQ(resolved.local_sizes.size(), 2u);
  EXPECT_EQ(resolved.local_sizes[1].elements[0].factors, resolved.inputs[0][0]);
}

TEST(Sizes, ThatDisagreeDoNotFit) {
  EXPECT_EQ(resolved_text("m -> m size(m, n)", Call("x:f32[6] n:5")), "misfit");
}

TEST(Windows, CountCeilModePaddingAndDilation) {
  const std::string rule =
      "b* s* -> b* o* dims(s*, 1) window(s*, o*, k, st, p, d, ceil)";
  EXPECT_EQ(
      resolved_text(
          rule, Call("x:f32[2,7] k:[3] st:[] p:[0] d:[1] ceil:false")),
      "b0 s0! -> b0 2!");
  EXPECT_EQ(
      resolved_text(
          rule, Call("x:f32[2,7] k:[3] st:[2] p:[1] d:[2] ceil:true")),
      "b0 s0! -> b0 3!");
  EXPECT_EQ(
      resolved_text(
          rule, Call("x:f32[2,2] k:[3] st:[1] p:[0] d:[1] ceil:false")),
      "misfit");
}

TEST(Along, SharesDimsThatAgreeAndKeepsTheRestWhole) {
  const std::string rule = "x*, y* -> y* along(dim)";
  EXPECT_EQ(
      resolved_text(rule, Call("x:f32[4,9] dim:1 i:i64[4,2]")),
      "x0 x1!, x0 y1! -> x0 y1!");
  EXPECT_EQ(
      resolved_text(rule, Call("x:f32[4,9] dim:1 i:i64[3,2]")),
      "x0! x1!, y0! y1! -> y0! y1!");
}

TEST(Swaps, PutsALetterInPlaceOfTheDim) {
  EXPECT_EQ(
      resolved_text(
          "x*, i -> y* swaps(dim, i, y*)", Call("x:f32[4,9] dim:0 i:i64[3]")),
      "x0! x1, i -> i x1");
  EXPECT_EQ(
      resolved_text(
          "x*, i, y* -> x* swaps(dim, i, y*)",
          Call("x:f32[4,9] dim:0 i:i64[3] s:f32[3,9]")),
      "x0! x1, i, i x1 -> x0! x1; 0 sums i");
}

TEST(Indexes, PutTheirDimsWhereTheIndexedOnesStood) {
  const std::string rule = "x*, each: i* -> y* indexes(l, y*)";
  EXPECT_EQ(
      resolved_text(rule, Call("x:f32[4,5,6] l:{-,i64[2,3]}")),
      "x0 x1! x2, i0 i1 -> x0 i0 i1 x2");
  EXPECT_EQ(
      resolved_text(rule, Call("x:f32[4,5,6] l:{i64[3],-,i64[1]}")),
      "x0! x1 x2!, i0, 1 -> i0 x1");
}

TEST(Indexes, ByAMaskDependOnValuesAndDoNotFit) {
  EXPECT_EQ(
      resolved_text(
          "x*, each: i* -> y* indexes(l, y*)", Call("x:f32[4] l:{b8[4]}")),
      "misfit");
}

}  // namespace
}  // namespace torch_mesh

// test_families.cpp: what the table says of calls that training steps make.

#include <gtest/gtest.h>

#include "rules/calls.h"
#include "rules/families.h"

namespace torch_mesh {
namespace {

using testing::Call;
using testing::table_text;

using Sets = std::vector<std::vector<int>>;

Resolved resolve(const std::string& op, const Call& call) {
  Resolved resolved;
  const auto rule = find_rule(op);
  EXPECT_TRUE(rule && rule->resolve(call.get(), resolved)) << op;
  return resolved;
}

TEST(Pointwise, OpsShareEveryDim) {
  const Call call("self:f32[4,1] other:f32[3]");
  Resolved resolved;
  ASSERT_TRUE(rules::pointwise_rule()->resolve(call.get(), resolved));
  EXPECT_EQ(testing::text_of(resolved), "x0 1, x1 -> x0 x1");
  EXPECT_TRUE(resolved.linear.empty());
}

TEST(Pointwise, SumsAreLinearTogetherAndProductsOneByOne) {
  const Call call("self:f32[4] other:f32[4]");
  EXPECT_EQ(resolve("aten::add.Tensor", call).linear, (Sets{{0, 1}}));
  EXPECT_EQ(resolve("aten::mul.Tensor", call).linear, (Sets{{0}, {1}}));
  EXPECT_EQ(resolve("aten::div.Tensor", call).linear, (Sets{{0}}));
}

TEST(Pointwise, ARoundedQuotientIsNotLinear) {
  const Call call("self:f32[4] other:f32[4] rounding_mode:'floor'");
  EXPECT_TRUE(resolve("aten::div.Tensor_mode", call).linear.empty());
}

TEST(Pointwise, OnlyACastAmongFloatingDtypesIsLinear) {
  EXPECT_EQ(
      resolve("aten::_to_copy", Call("self:f32[4] dtype:15")).linear,
      (Sets{{0}}));
  EXPECT_TRUE(
      resolve("aten::_to_copy", Call("self:f32[4] dtype:4")).linear.empty());
}

TEST(Pointwise, AChoiceIsLinearInBothSidesTogether) {
  const Call call("condition:b8[4] self:f32[4] other:f32[4]");
  EXPECT_EQ(resolve("aten::where.self", call).linear, (Sets{{1, 2}}));
}

TEST(Matmul, ABiasCountsOnce) {
  const Call call("self:f32[4] mat1:f32[8,6] mat2:f32[6,4]");
  const Resolved resolved = resolve("aten::addmm", call);
  EXPECT_EQ(testing::text_of(resolved), "n, m k, k n -> m n; 0 sums k");
  EXPECT_EQ(resolved.adds, std::vector<int>{0});
  EXPECT_EQ(resolved.linear, (Sets{{0, 1}, {0, 2}}));
}

TEST(Matmul, BatchesPass) {
  EXPECT_EQ(
      table_text("aten::bmm", Call("self:f32[2,3,4] mat2:f32[2,4,5]")),
      "b m k, b k n -> b m n; 0 sums k");
  EXPECT_EQ(
      table_text("aten::dot", Call("self:f32[3] other:f32[3]")),
      "k, k -> .; 0 sums k");
}

TEST(Reductions, SumContractsMeanIsRewrittenMaximumIsWhole) {
  const Call call("self:f32[4,5] dim:[0] keepdim:false dtype:none");
  EXPECT_EQ(
      table_text("aten::sum.dim_IntList", call), "x0 x1 -> x1; 0 sums x0");
  EXPECT_EQ(table_text("aten::mean.dim", call), "x0? x1 -> x1");
  EXPECT_EQ(table_text("aten::amax", call), "x0! x1 -> x1");
  EXPECT_EQ(
      table_text("aten::sum", Call("self:f32[4] dtype:none")),
      "x0 -> .; 0 sums x0");
}

TEST(Reductions, ASumOfIntegerCastsIsNotLinear) {
  EXPECT_TRUE(resolve("aten::sum", Call("self:f32[4] dtype:4")).linear.empty());
  EXPECT_EQ(
      resolve("aten::sum", Call("self:f32[4] dtype:none")).linear, (Sets{{0}}));
}

TEST(Softmax, RunsAlongAWholeDim) {
  EXPECT_EQ(
      table_text(
          "aten::_softmax", Call("self:f32[4,5] dim:-1 half_to_float:false")),
      "x0 x1! -> x0 x1!");
}

TEST(Embedding, PassesPlacesAndColumns) {
  EXPECT_EQ(
      table_text(
          "aten::embedding",
          Call("weight:f32[10,8] indices:i64[2,3] padding_idx:-1")),
      "v? d, i0 i1 -> i0 i1 d");
}

TEST(Embedding, GradientsSumOverPlacesUnlessTheyAreScaledByFrequency) {
  const std::string call =
      "grad_output:f32[2,3,8] indices:i64[2,3] num_weights:10 "
      "padding_idx:-1 scale_grad_by_freq:";
  EXPECT_EQ(
      table_text("aten::embedding_dense_backward", Call(call + "false")),
      "i0 i1 d, i0 i1 -> v! d; 0 sums i0; 0 sums i1");
  EXPECT_EQ(
      table_text("aten::embedding_dense_backward", Call(call + "true")),
      "i0! i1! d, i0! i1! -> v! d");
}

TEST(Indexing, WritesAlongAShardedDimAreRewritten) {
  EXPECT_EQ(
      table_text(
          "aten::index_add",
          Call("self:f32[6,4] dim:0 index:i64[3] source:f32[3,4] alpha:1")),
      "x0? x1, i, i x1 -> x0? x1; 0 sums i");
  EXPECT_EQ(
      table_text(
          "aten::scatter_add",
          Call("self:f32[6,4] dim:0 index:i64[3,4] src:f32[3,4]")),
      "x0? x1, y0 x1, y0 x1 -> x0? x1; 0 sums y0");
}

TEST(Indexing, AWriteOfPartsCountsFromWhereTheyBegin) {
  const Resolved resolved = resolve(
      "torch_mesh::put_at",
      Call(
          "self:f32[6,4] indices:{-,i64[3]} values:f32[6,3] "
          "accumulate:true begin:[0,0] size:[6,4] from_end:true"));
  EXPECT_EQ(testing::text_of(resolved), "x0 x1, i0, x0 i0 -> x0 x1; 0 sums i0");
  ASSERT_EQ(resolved.local_sizes.size(), 1U);
  EXPECT_TRUE(resolved.local_sizes[0].elements[0].up.empty());
  EXPECT_EQ(resolved.local_sizes[0].elements[1].up, std::vector<int>{1});
}

TEST(Indexing, AMaskMakesAProgram) {
  const Resolved resolved =
      resolve("aten::index", Call("self:f32[6,4] indices:{b8[6]}"));
  EXPECT_TRUE(resolved.is_program);
  EXPECT_TRUE(resolved.inputs.empty());
  EXPECT_TRUE(resolved.factors.empty());
}

std::string conv(const std::string& tensors, const std::string& rest) {
  return tensors + " stride:[1,1] padding:[0,0] dilation:[1,1] " + rest +
         " output_padding:[0,0]";
}

TEST(Convolution, PassesBatchAndOutputAndContractsInputChannels) {
  const Call call(conv(
      "input:f32[2,3,8,8] weight:f32[4,3,3,3] bias:f32[4]",
      "transposed:false groups:1"));
  const Resolved resolved = resolve("aten::convolution", call);
  EXPECT_EQ(
      testing::text_of(resolved),
      "n i s0! s1!, o i k0! k1!, o -> n o 6! 6!; 0 sums i");
  EXPECT_EQ(resolved.adds, std::vector<int>{2});
  EXPECT_EQ(resolved.linear, (Sets{{0, 2}, {1, 2}}));
}

TEST(Convolution, TransposedHasItsWeightTheOtherWayRound) {
  EXPECT_EQ(
      table_text(
          "aten::convolution",
          Call(conv(
              "input:f32[2,3,8,8] weight:f32[3,4,3,3] "
              "bias:none_tensor",
              "transposed:true groups:1"))),
      "n i s0! s1!, i o k0! k1! -> n o 10! 10!; 0 sums i");
}

TEST(Convolution, GroupsAreTheOuterFactorOfTheChannels) {
  const Resolved resolved = resolve(
      "aten::convolution",
      Call(conv(
          "input:f32[2,6,8,8] weight:f32[9,2,3,3] bias:none_tensor",
          "transposed:false groups:3")));
  EXPECT_EQ(
      testing::text_of(resolved),
      "n (g c) s0! s1!, (g m) c k0! k1! -> n (g m) 6! 6!; 0 sums c");
  ASSERT_EQ(resolved.local_sizes.size(), 1u);
  EXPECT_EQ(
      resolved.factors[resolved.local_sizes[0].elements[0].factors[0]].name,
      "g");
}

TEST(Convolution, TheGradientOfTheBiasKnowsNoInputChannels) {
  const std::string expected =
      "n o u0! u1!, n i s0! s1!, o i k0! k1! -> "
      "n i s0! s1!, o i k0! k1!, o; 0 sums o; 1 sums n; 2 sums n";
  for (const char* bias_sizes : {"[4]", "[0]", "none"}) {
    Call call(
        "g:f32[2,4,6,6] x:f32[2,3,8,8] w:f32[4,3,3,3] bias_sizes:" +
        std::string(bias_sizes) + " transposed:false groups:1");
    call.returns(3);
    EXPECT_EQ(table_text("aten::convolution_backward", call), expected)
        << bias_sizes;
  }
}

TEST(Norms, LayerNormPassesLeadingDims) {
  Call call(
      "input:f32[2,3,8] normalized_shape:[8] weight:f32[8] bias:none_tensor");
  call.returns(3);
  EXPECT_EQ(
      table_text("aten::native_layer_norm", call),
      "b0 b1 n0!, n0! -> b0 b1 n0!, b0 b1 1, b0 b1 1");
}

TEST(Norms, LayerNormSumsTheGradientsOfItsWeights) {
  Call call(
      "g:f32[2,8] x:f32[2,8] normalized_shape:[8] mean:f32[2,1] "
      "rstd:f32[2,1] weight:f32[8] bias:f32[8]");
  call.returns(3);
  EXPECT_EQ(
      table_text("aten::native_layer_norm_backward", call),
      "b0 n0!, b0 n0!, b0 1, b0 1, n0!, n0! -> b0 n0!, n0!, n0!; "
      "1 sums b0; 2 sums b0");
}

TEST(Norms, GroupNormPassesBatchAndGroups) {
  Call call(
      "input:f32[2,6,5] weight:f32[6] bias:none_tensor N:2 C:6 HxW:5 group:3");
  call.returns(3);
  EXPECT_EQ(
      table_text("aten::native_group_norm", call),
      "n (g c!) s0!, (g c!) -> n (g c!) s0!, n g, n g");
}

TEST(Norms, BatchNormIsRewrittenInTrainingAndPassesInEvaluation) {
  const std::string tensors =
      "input:f32[8,3,5] weight:f32[3] bias:f32[3] running_mean:f32[3] "
      "running_var:f32[3] training:";
  Call training(tensors + "true");
  training.returns(3);
  EXPECT_EQ(
      table_text("aten::native_batch_norm", training),
      "n? c s0?, c, c, c, c -> n? c s0?, c, c");
  Call evaluation(tensors + "false");
  evaluation.returns(3);
  EXPECT_EQ(
      table_text("aten::native_batch_norm", evaluation),
      "n c s0!, c, c, c, c -> n c s0!, 0!, 0!");
}

TEST(Pooling, PassesBatchAndChannelsWithAndWithoutABatch) {
  const std::string args =
      " kernel_size:[2,2] stride:[] padding:[0] dilation:[1] ceil_mode:false";
  Call batched("self:f32[2,3,8,6]" + args);
  batched.returns(2);
  EXPECT_EQ(
      table_text("aten::max_pool2d_with_indices", batched),
      "b0 b1 s0! s1! -> b0 b1 4! 3!, b0 b1 4! 3!");
  Call single("self:f32[3,8,6]" + args);
  single.returns(2);
  EXPECT_EQ(
      table_text("aten::max_pool2d_with_indices", single),
      "b0 s0! s1! -> b0 4! 3!, b0 4! 3!");
}

TEST(Losses, AMeanIsRewrittenAndASumContracted) {
  const std::string tensors = "self:f32[4,5] target:f32[4,5] reduction:";
  EXPECT_EQ(
      table_text("aten::mse_loss", Call(tensors + "0")),
      "x0 x1, x0 x1 -> x0 x1");
  EXPECT_EQ(
      table_text("aten::mse_loss", Call(tensors + "1")),
      "x0? x1?, x0? x1? -> .");
  EXPECT_EQ(
      table_text("aten::mse_loss", Call(tensors + "2")),
      "x0 x1, x0 x1 -> .; 0 sums x0; 0 sums x1");
}

TEST(Losses, NllKeepsClassesWholeAndItsGradientPassesTheBatch) {
  Call forward("self:f32[8,10] target:i64[8] weight:none_tensor reduction:1");
  forward.returns(2);
  EXPECT_EQ(table_text("aten::nll_loss_forward", forward), "n? c!, n? -> ., .");
  EXPECT_EQ(
      table_text(
          "aten::nll_loss_backward",
          Call(
              "g:f32[] self:f32[8,10] target:i64[8] "
              "weight:none_tensor reduction:1 total_weight:f32[]")),
      "., n c!, n, . -> n c!");
}

TEST(Attention, PassesBatchAndHeadsAndQueriesWithoutACausalMask) {
  const std::string tensors =
      "query:f32[2,4,8,16] key:f32[2,4,9,16] value:f32[2,4,9,16] is_causal:";
  Call full(tensors + "false attn_mask:none_tensor");
  full.returns(2);
  EXPECT_EQ(
      table_text("aten::_scaled_dot_product_flash_attention_for_cpu", full),
      "b h l e!, b h s! e!, b h s! f! -> b h l f!, b h l");
  Call causal(tensors + "true attn_mask:none_tensor");
  causal.returns(2);
  EXPECT_EQ(
      table_text("aten::_scaled_dot_product_flash_attention_for_cpu", causal),
      "b h l! e!, b h s! e!, b h s! f! -> b h l! f!, b h l!");
}

TEST(Indexing, AnAccumulatingPutSumsOverItsIndices) {
  const std::string tensors =
      "self:f32[9,4] indices:{i64[3]} values:f32[3,4] accumulate:";
  EXPECT_EQ(
      table_text("aten::index_put", Call(tensors + "true")),
      "x0? x1, i0, i0 x1 -> x0? x1; 0 sums i0");
  EXPECT_EQ(
      table_text("aten::index_put", Call(tensors + "false")),
      "x0? x1, i0!, i0! x1 -> x0? x1");
}

TEST(Views, ADtypeViewHasNoRuleThatFits) {
  EXPECT_EQ(
      table_text("aten::view.dtype", Call("self:f32[4] dtype:7")), "misfit");
}

TEST(Random, OpsAreNeverCut) {
  Call call("input:f32[4] p:none train:true");
  call.returns(2);
  EXPECT_EQ(table_text("aten::native_dropout", call), "misfit");
}

}  // namespace
}  // namespace torch_mesh

// torch::nn modules on the mesh: identity of parameters, training as on CPU.

#include <gtest/gtest.h>

#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/adam.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <torch_mesh/distribution.h>
#include <torch_mesh/trace.h>

#include "core/error_of.h"
#include "device/meshes.h"

namespace torch_mesh {
namespace {

torch::nn::Sequential make_model() {
  torch::manual_seed(0);
  return torch::nn::Sequential(
      torch::nn::Linear(6, 8),
      torch::nn::LayerNorm(torch::nn::LayerNormOptions({8})),
      torch::nn::Linear(8, 4));
}

struct Trained {
  std::vector<double> losses;
  std::vector<torch::Tensor> parameters;
};

Trained train(const Distribution* distribution) {
  torch::nn::Sequential model = make_model();
  torch::optim::Adam optimizer(model->parameters(), 1e-2);
  if (distribution) {
    distribution->distribute_parameters(*model);
  }
  Trained result;
  for (int step = 0; step < 5; ++step) {
    torch::Tensor x = torch::randn({8, 6});
    if (distribution) {
      x = distribution->shard_batch(x);
    }
    const torch::Tensor loss = model->forward(x).square().mean();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    result.losses.push_back(loss.item<double>());
  }
  for (const torch::Tensor& parameter : model->parameters()) {
    result.parameters.push_back(full(parameter));
  }
  return result;
}

void expect_trains_alike(const Distribution& distribution) {
  const Trained plain = train(nullptr);
  const Trained global = train(&distribution);
  for (size_t i = 0; i < plain.losses.size(); ++i) {
    EXPECT_NEAR(global.losses[i], plain.losses[i], 1e-5 * plain.losses[i]);
  }
  for (size_t i = 0; i < plain.parameters.size(); ++i) {
    const torch::Tensor& expected = plain.parameters[i];
    const double error =
        (global.parameters[i] - expected).norm().item<double>();
    EXPECT_LT(error, 1e-4 * expected.norm().item<double>()) << i;
  }
}

LayoutMap megatron_map() {
  LayoutMap map;
  map.add("0.weight", {"model", std::nullopt});
  map.add("0.bias", {"model"});
  map.add("1.*", {"model"});
  map.add("2.weight", {std::nullopt, "model"});
  return map;
}

TEST(Module, trains_as_on_one_device) {
  for (bool separate : {false, true}) {
    expect_trains_alike(DataParallel(mesh_of(separate, {{"data", 4}})));
    expect_trains_alike(ModelParallel(
        mesh_of(separate, {{"data", 2}, {"model", 2}}), megatron_map()));
  }
}

TEST(Module, moved_to_the_mesh_keeps_its_parameters) {
  torch::nn::Sequential model = make_model();
  const std::vector<torch::Tensor> before = model->parameters();
  const torch::Tensor value = before[0].detach().clone();
  register_device();
  model->to(mesh_device());
  const std::vector<torch::Tensor> after = model->parameters();
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(after[i].is_same(before[i])) << i;
    EXPECT_TRUE(is_global(after[i])) << i;
    EXPECT_TRUE(after[i].requires_grad()) << i;
  }
  EXPECT_TRUE(has_value(before[0], value));
  model->to(torch::kCPU);
  EXPECT_TRUE(before[0].is_same(model->parameters()[0]));
  EXPECT_TRUE(at::equal(before[0], value));
}

TEST(Distribution, places_parameters_as_the_map_says) {
  torch::nn::Sequential model = make_model();
  const std::vector<torch::Tensor> before = model->parameters();
  const ModelParallel parallel(
      Mesh({{"data", 2}, {"model", 2}}), megatron_map());
  parallel.distribute_parameters(*model);
  const std::vector<torch::Tensor> after = model->parameters();
  const std::vector<const char*> layouts{
      "(R, S0)", "(R, S0)", "(R, S0)", "(R, S0)", "(R, S1)", "(R, R)"};
  for (size_t i = 0; i < layouts.size(); ++i) {
    EXPECT_TRUE(after[i].is_same(before[i])) << i;
    EXPECT_EQ(layout_of(after[i]).str(), layouts[i]) << i;
    EXPECT_TRUE(after[i].requires_grad() && after[i].is_leaf()) << i;
  }
}

TEST(Distribution, moves_gradients_along_and_can_be_changed) {
  torch::nn::Sequential model = make_model();
  model->forward(torch::ones({2, 6})).sum().backward();
  const torch::Tensor weight = model->parameters()[0];
  const torch::Tensor gradient = weight.grad().clone();
  const Mesh mesh({{"data", 2}, {"model", 2}});
  DataParallel(mesh).distribute_parameters(*model);
  ModelParallel(mesh, megatron_map()).distribute_parameters(*model);
  EXPECT_EQ(layout_of(weight).str(), "(R, S0)");
  EXPECT_EQ(layout_of(weight.grad()).str(), "(R, S0)");
  EXPECT_TRUE(has_value(weight.grad(), gradient));
}

TEST(Distribution, shards_batches_along_its_axis) {
  const Mesh mesh({{"model", 2}, {"data", 3}});
  const DataParallel parallel(mesh, "data");
  const torch::Tensor x = torch::randn({7, 2});
  EXPECT_EQ(layout_of(parallel.shard_batch(x)).str(), "(R, S0)");
  EXPECT_TRUE(has_value(parallel.shard_batch(x), x));
  EXPECT_EQ(
      layout_of(parallel.shard_batch(torch::tensor(1.0))).str(), "(R, R)");
  EXPECT_EQ(DataParallel(mesh).batch_axis(), "model");
}

TEST(Distribution, names_axes_and_ranks_that_do_not_fit) {
  const Mesh mesh({{"data", 2}});
  EXPECT_EQ(
      error_code_of([&] { ModelParallel(mesh, megatron_map()); }),
      "unknown-axis");
  EXPECT_EQ(error_code_of([&] { DataParallel(mesh, "dta"); }), "unknown-axis");
  EXPECT_EQ(error_code_of([&] { DataParallel{Mesh()}; }), "layout-axes");
  LayoutMap map;
  map.add(".*bias", {std::nullopt, "data"});
  torch::nn::Sequential model = make_model();
  EXPECT_EQ(
      error_code_of(
          [&] { ModelParallel(mesh, map).distribute_parameters(*model); }),
      "layout-rank");
}

TEST(Distribution, warns_of_a_pattern_that_finds_nothing) {
  struct Keep : c10::WarningHandler {
    void process(const c10::Warning& warning) override {
      texts.push_back(warning.msg());
    }
    std::vector<std::string> texts;
  } keep;
  LayoutMap map;
  map.add("0.wieght", {"data"});
  torch::nn::Sequential model = make_model();
  {
    const c10::WarningUtils::WarningHandlerGuard guard(&keep);
    ModelParallel(Mesh({{"data", 2}}), map).distribute_parameters(*model);
  }
  ASSERT_EQ(keep.texts.size(), 1u);
  EXPECT_NE(keep.texts[0].find("[unused-pattern]"), std::string::npos);
  EXPECT_NE(keep.texts[0].find("nearest  0.weight"), std::string::npos)
      << keep.texts[0];
}

}  // namespace
}  // namespace torch_mesh

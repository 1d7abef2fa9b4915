// train_mlp.cpp: an MLP trained on one device, data-parallel and
// model-parallel. The losses of all three must agree.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include <torch/nn/functional/loss.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/optim/adam.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <torch_mesh/distribution.h>
#include <torch_mesh/tensor.h>
#include <torch_mesh/trace.h>

namespace {

constexpr int kSteps = 20;
constexpr int64_t kBatch = 32;
constexpr int64_t kFeatures = 16;
constexpr int64_t kHidden = 64;
constexpr int64_t kClasses = 4;
constexpr double kTolerance = 1e-5;  // relative

struct Mlp : torch::nn::Module {
  Mlp()
      : fc1(register_module("fc1", torch::nn::Linear(kFeatures, kHidden))),
        norm(register_module(
            "norm",
            torch::nn::LayerNorm(torch::nn::LayerNormOptions({kHidden})))),
        fc2(register_module("fc2", torch::nn::Linear(kHidden, kHidden))),
        head(register_module("head", torch::nn::Linear(kHidden, kClasses))) {}

  torch::Tensor forward(torch::Tensor x) {
    x = torch::relu(norm(fc1(x)));
    return head(torch::relu(fc2(x)));
  }

  torch::nn::Linear fc1;
  torch::nn::LayerNorm norm;
  torch::nn::Linear fc2;
  torch::nn::Linear head;
};

// Trains a new model and returns the loss of each step.
//
// distribution   nullptr for one plain device.
std::vector<double> train(const torch_mesh::Distribution* distribution) {
  torch::manual_seed(0);
  Mlp model;
  const torch::Tensor teacher = torch::randn({kFeatures, kClasses});
  torch::optim::Adam optimizer(model.parameters(), 1e-2);
  if (distribution) {
    distribution->distribute_parameters(model);
  }
  std::vector<double> losses;
  for (int step = 0; step < kSteps; ++step) {
    torch::Tensor x = torch::randn({kBatch, kFeatures});
    torch::Tensor labels = x.matmul(teacher).argmax(1);
    if (distribution) {
      x = distribution->shard_batch(x);
      labels = distribution->shard_batch(labels);
    }
    const torch::Tensor loss =
        torch::nn::functional::cross_entropy(model.forward(x), labels);
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
    losses.push_back(loss.item<double>());
  }
  return losses;
}

// The same, and prints what the devices sent each other.
std::vector<double> train_and_count(
    const char* name,
    const torch_mesh::Distribution& distribution) {
  const torch_mesh::Counting counting;
  const std::vector<double> losses = train(&distribution);
  const torch_mesh::Counts counts = counting.so_far();
  std::printf("%s on %s:", name, distribution.mesh().str().c_str());
  for (const auto& [collective, number] : counts.collectives) {
    std::printf(
        "  %s %lld", collective.c_str(), static_cast<long long>(number));
  }
  std::printf("\n");
  return losses;
}

// Largest relative difference; infinite if a loss is not a number.
double spread(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]) / std::abs(a[i]);
    if (!std::isfinite(difference)) {
      return INFINITY;
    }
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace

int main() {
  const torch_mesh::DataParallel data_parallel(torch_mesh::Mesh({{"data", 4}}));

  torch_mesh::LayoutMap map;
  map.add("fc1.weight", {"model", std::nullopt});
  map.add("fc1.bias", {"model"});
  map.add("norm.*", {"model"});
  map.add("fc2.weight", {std::nullopt, "model"});
  const torch_mesh::ModelParallel model_parallel(
      torch_mesh::Mesh({{"data", 2}, {"model", 2}}), map);

  const std::vector<double> plain = train(nullptr);
  const std::vector<double> data = train_and_count("data", data_parallel);
  const std::vector<double> model = train_and_count("model", model_parallel);

  std::printf("step  one device  data-parallel  model-parallel\n");
  for (int step = 0; step < kSteps; ++step) {
    std::printf(
        "%4d  %10.7f  %13.7f  %14.7f\n",
        step,
        plain[step],
        data[step],
        model[step]);
  }
  const double largest = std::max(spread(plain, data), spread(plain, model));
  std::printf("largest relative difference %.1e\n", largest);
  return largest <= kTolerance ? 0 : 1;
}

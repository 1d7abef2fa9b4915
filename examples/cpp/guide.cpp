// guide.cpp: the programs of docs/cpp.md, and of the README, as one that runs.
//
// Prints a line of facts for each section.

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>
#include <torch/types.h>

#include <torch_mesh/distribution.h>
#include <torch_mesh/error.h>
#include <torch_mesh/tensor.h>
#include <torch_mesh/trace.h>

namespace {

using torch_mesh::Layout;
using torch_mesh::Mesh;

void say(const char* topic, const std::string& fact) {
  std::printf("%s: %s\n", topic, fact.c_str());
}

std::string text(bool truth) { return truth ? "true" : "false"; }

void tensors() {
  torch_mesh::register_device();
  const Mesh mesh({{"data", 2}, {"model", 2}});

  torch::Tensor x = torch::randn({5, 8});
  torch::Tensor w = torch::randn({8, 6});
  torch::Tensor xs = torch_mesh::distribute(x, Layout::parse(mesh, "(S0, R)"));
  torch::Tensor ws = torch_mesh::distribute(w, Layout::parse(mesh, "(R, S1)"));
  torch::Tensor ys = xs.matmul(ws);
  torch_mesh::layout_of(ys).str();  // "(S0, S1)"
  torch::Tensor y = torch_mesh::full(ys);

  say("layout", torch_mesh::layout_of(ys).str());
  say("value", text(torch::allclose(y, x.matmul(w), 1e-5, 1e-6)));

  // Row 3 and 4 are the second half of five rows.
  std::vector<torch::Tensor> parts = torch_mesh::shards(ys);
  parts[3].sizes();  // [2, 3]
  torch::Tensor again =
      torch_mesh::from_shards(parts, torch_mesh::layout_of(ys));

  say("shards",
      std::to_string(parts.size()) + " of them, the last " +
          std::to_string(parts[3].size(0)) + " x " +
          std::to_string(parts[3].size(1)));
  say("from shards", text(torch::equal(torch_mesh::full(again), y)));
}

void gradients() {
  const Mesh mesh({{"data", 2}});
  torch::Tensor leaf = torch::randn({4, 3}, torch::requires_grad());
  torch::Tensor xs = torch_mesh::distribute(leaf, Layout::parse(mesh, "(S0)"));
  xs.square().sum().backward();
  leaf.grad();  // 2 * leaf, where the leaf is

  say("gradient", text(torch::equal(leaf.grad(), 2 * leaf.detach())));
}

void modules() {
  torch::nn::Sequential net(
      {
          {"fc1", torch::nn::Linear(16, 32)},
          {"relu", torch::nn::ReLU()},
          {"fc2", torch::nn::Linear(32, 4)},
      });
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  torch::Tensor x = torch::randn({10, 16});

  torch_mesh::LayoutMap map;
  map.add("fc1.weight", {"model", std::nullopt});
  map.add("fc1.bias", {"model"});
  map.add("fc2.weight", {std::nullopt, "model"});
  torch_mesh::Mesh mesh({{"data", 2}, {"model", 2}});
  torch_mesh::ModelParallel parallel(mesh, map);
  parallel.distribute_parameters(*net);  // a torch::nn module

  const double before = net->forward(x.to(torch_mesh::mesh_device()))
                            .square()
                            .mean()
                            .item<double>();
  torch_mesh::Counting counting;
  auto loss = net->forward(parallel.shard_batch(x)).square().mean();
  loss.backward();
  optimizer.step();  // made before the parameters moved; it works on
  const torch_mesh::Counts counts = counting.so_far();
  counts.collectives.at("all_reduce@model");
  counts.num_bytes.at("all_reduce@model");  // received per device

  const double after = net->forward(x.to(torch_mesh::mesh_device()))
                           .square()
                           .mean()
                           .item<double>();
  say("first weight",
      torch_mesh::layout_of(net->named_parameters()["fc1.weight"]).str());
  say("loss falls", text(after < before));
  say("collectives", text(counts.collectives.count("all_reduce@model") == 1));
  say("replicated ops", std::to_string(counts.replicated_ops.size()));
}

void errors() {
  const Mesh mesh({{"data", 2}});
  try {
    Layout::parse(mesh, "{dta: S0}");
  } catch (const torch_mesh::CoreError& error) {
    error.code;    // "unknown-axis", a section of docs/errors.md
    error.what();  // the text, with a hint
    say("error", error.code);
  }
  try {
    torch_mesh::distribute(torch::ones(4), Layout::parse(mesh, "(S1)"));
  } catch (const c10::ValueError& error) {
    say("error of torch",
        text(
            std::string(error.what()).find("[layout-dim]") !=
            std::string::npos));
  }
}

}  // namespace

int main() {
  torch::manual_seed(0);
  tensors();
  gradients();
  modules();
  errors();
  return 0;
}

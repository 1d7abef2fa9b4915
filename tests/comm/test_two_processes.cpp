// test_two_processes.cpp: one mesh over two processes, half of the devices in
// each, with a transport of this test's own: the engine knows nothing of it.

#include <cstdlib>
#include <string>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <torch/nn/functional/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <torch_mesh/tensor.h>

#include "comm/two_processes.h"
#include "device/meshes.h"

namespace torch_mesh {
namespace {

constexpr const char* kRank = "TORCH_MESH_TEST_RANK";
constexpr int kSocket = 100;

// Runs a test of this program in a process of its own.
pid_t start(int rank, int socket, const std::string& test) {
  const pid_t child = fork();
  if (child != 0) {
    return child;
  }
  dup2(socket, kSocket);
  setenv(kRank, std::to_string(rank).c_str(), 1);
  setenv("OMP_NUM_THREADS", "1", 1);
  const std::string filter = "--gtest_filter=" + test;
  execl("/proc/self/exe", "test", filter.c_str(), "--gtest_brief=1", nullptr);
  _exit(127);
}

void run_in_two_processes(const std::string& test) {
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  const pid_t children[] = {start(0, sockets[0], test),
                            start(1, sockets[1], test)};
  close(sockets[0]);
  close(sockets[1]);
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
}

// What follows runs in each of them.
class InTwoProcesses : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::getenv(kRank)) {
      GTEST_SKIP() << "runs in processes of its own";
    }
    if (!current_job()) {
      start_job_of_two(std::atoi(std::getenv(kRank)), kSocket);
    }
    register_device();
    torch::manual_seed(3);
  }

  static Mesh mesh() {
    std::vector<Device> devices;
    for (const char* name : {"cpu:0@0", "cpu:1@0", "cpu:0@1", "cpu:1@1"}) {
      devices.push_back(Device::parse(name));
    }
    return Mesh({{"data", 4}}, devices);
  }
  static at::Tensor on_mesh(const at::Tensor& value, const char* layout) {
    return distribute(value, Layout::parse(mesh(), layout));
  }
};

TEST_F(InTwoProcesses, values_are_those_of_one_device) {
  const at::Tensor value = torch::arange(35.0).view({7, 5});
  for (const char* layout : {"(R)", "(S0)", "(S1)", "(P+)"}) {
    at::Tensor x = on_mesh(value, layout);
    EXPECT_TRUE(has_value(x, value)) << layout;
    EXPECT_TRUE(has_value(x.mm(x.t()), value.mm(value.t()))) << layout;
    EXPECT_TRUE(
        has_value(x.softmax(0), value.softmax(0)) ||
        at::allclose(full(x.softmax(0)), value.softmax(0)));
    EXPECT_EQ(x.sum().item<double>(), value.sum().item<double>()) << layout;
    EXPECT_TRUE(has_value((x > 9).nonzero(), (value > 9).nonzero())) << layout;
    EXPECT_TRUE(has_value(std::get<0>(x.sort(1, true)), at::flip(value, 1)));
  }
}

TEST_F(InTwoProcesses, windows_are_read_and_written) {
  at::Tensor right = torch::arange(35.0).view({7, 5});
  for (const char* layout : {"(R)", "(S0)", "(S1)", "(P+)"}) {
    at::Tensor x = on_mesh(right, layout);
    x.select(0, 5).fill_(3);
    x.slice(0, 1, 6, 2).mul_(2);
    x.view({-1}).slice(0, 3, 11).add_(1);
    x.diagonal().neg_();
    right = right.clone();
    right.select(0, 5).fill_(3);
    right.slice(0, 1, 6, 2).mul_(2);
    right.view({-1}).slice(0, 3, 11).add_(1);
    right.diagonal().neg_();
    EXPECT_TRUE(has_value(x, right)) << layout;
    EXPECT_TRUE(has_value(x.select(0, 6), right.select(0, 6))) << layout;
    EXPECT_TRUE(has_value(x.slice(0, 2), right.slice(0, 2))) << layout;
  }
}

TEST_F(InTwoProcesses, random_numbers_are_those_of_one_device) {
  auto draw = [](const at::Tensor& x) {
    torch::manual_seed(5);
    at::Tensor y = at::dropout(x, 0.4, /*train=*/true);
    y = y + at::randn_like(x);
    return y.uniform_(0, 1) + at::bernoulli(at::full_like(x, 0.3));
  };
  const at::Tensor value = torch::ones({7, 5});
  for (const char* layout : {"(R)", "(S0)", "(S1)"}) {
    EXPECT_TRUE(has_value(draw(on_mesh(value, layout)), draw(value)));
  }
}

TEST_F(InTwoProcesses, an_mlp_trains) {
  auto train = [&](bool is_global, const char* weights) {
    torch::manual_seed(0);
    torch::nn::Linear first(6, 8);
    torch::nn::Linear second(8, 4);
    std::vector<at::Tensor> parameters;
    for (auto* layer : {&first, &second}) {
      for (at::Tensor* p : {&(*layer)->weight, &(*layer)->bias}) {
        if (is_global) {
          *p = on_mesh(p->detach(), weights).requires_grad_();
        }
        parameters.push_back(*p);
      }
    }
    torch::optim::AdamW optimizer(parameters, 1e-2);
    std::vector<double> losses;
    for (int step = 0; step < 4; ++step) {
      at::Tensor x = torch::randn({16, 6});
      if (is_global) {
        x = on_mesh(x, "(S0)");
      }
      at::Tensor y = at::linear(x, first->weight, first->bias).relu();
      y = at::linear(y, second->weight, second->bias);
      const at::Tensor loss = y.square().mean();
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
      losses.push_back(loss.item<double>());
    }
    losses.push_back(full(parameters[0]).sum().item<double>());
    return losses;
  };
  const std::vector<double> right = train(false, "");
  for (const char* weights : {"(R)", "(S0)"}) {
    const std::vector<double> losses = train(true, weights);
    for (size_t i = 0; i < right.size(); ++i) {
      EXPECT_NEAR(losses[i], right[i], 1e-5) << weights;
    }
  }
}

TEST_F(InTwoProcesses, each_holds_the_shards_of_its_devices) {
  const at::Tensor x = on_mesh(torch::ones({8, 2}), "(S0)");
  const std::vector<at::Tensor> held = shards(x);
  for (size_t device = 0; device < 4; ++device) {
    EXPECT_EQ(
        held[device].defined(), static_cast<int>(device) / 2 == this_process());
  }
}

TEST(TwoProcesses, share_a_mesh) {
  if (!std::getenv(kRank)) {
    run_in_two_processes("InTwoProcesses.*");
  }
}

}  // namespace
}  // namespace torch_mesh

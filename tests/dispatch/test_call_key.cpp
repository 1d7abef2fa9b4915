// The key of a call holds all that a plan depends on, and no data.

#include <gtest/gtest.h>

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <torch_mesh/trace.h>

#include "device/meshes.h"
#include "dispatch/call_key.h"
#include "dispatch/ops.h"

namespace torch_mesh {
namespace {

CallKey key(const Op& op, const std::vector<c10::IValue>& args) {
  return key_of(op, args, tensors_of(op, args), /*unbounded=*/0);
}

class Key : public testing::Test {
 protected:
  static void SetUpTestSuite() { register_device(); }

  CallKey of_add(const at::Tensor& a, const at::Tensor& b, at::Scalar alpha) {
    return key(op_named("aten::add", "Tensor"), {a, b, alpha});
  }
  CallKey of_sum(const at::Tensor& a, std::vector<int64_t> dims, bool keep) {
    return key(
        op_named("aten::sum", "dim_IntList"),
        {a, c10::IValue(dims), keep, c10::IValue()});
  }

  const Mesh mesh_ = mesh_of(false);
  const at::Tensor x_ = on(mesh_, at::ones({4, 6}), "(S0, R)");
};

TEST_F(Key, is_equal_for_other_data) {
  const at::Tensor other = on(mesh_, at::zeros({4, 6}), "(S0, R)");
  EXPECT_EQ(of_add(x_, x_, 1), of_add(other, x_, 1));
}

TEST_F(Key, holds_the_type_of_a_scalar_and_not_its_value) {
  EXPECT_EQ(of_add(x_, x_, 1.5), of_add(x_, x_, 2.5));
  EXPECT_NE(of_add(x_, x_, 1.5), of_add(x_, x_, 1));
}

TEST_F(Key, holds_what_a_tensor_is) {
  const CallKey base = of_sum(x_, {0}, false);
  const auto differs = [&](const at::Tensor& other) {
    return of_sum(other, {0}, false) != base;
  };
  EXPECT_TRUE(differs(on(mesh_, at::ones({4, 6}), "(S1, R)"))) << "layout";
  EXPECT_TRUE(differs(on(mesh_, at::ones({6, 4}), "(S0, R)"))) << "sizes";
  EXPECT_TRUE(differs(on(mesh_, at::ones({6, 4}).t(), "(S0, R)"))) << "strides";
  EXPECT_TRUE(differs(on(mesh_, at::ones({4, 6}, at::kDouble), "(S0, R)")))
      << "dtype";
  EXPECT_TRUE(differs(at::ones({4, 6}))) << "plain";
  const Mesh other({{"data", 2}, {"modem", 3}});
  EXPECT_TRUE(differs(on(other, at::ones({4, 6}), "(S0, R)"))) << "mesh";
  const Mesh separate = mesh_of(true);
  EXPECT_TRUE(differs(on(separate, at::ones({4, 6}), "(S0, R)"))) << "memory";
}

TEST_F(Key, holds_arguments_that_steer) {
  EXPECT_NE(of_sum(x_, {0}, false), of_sum(x_, {1}, false));
  EXPECT_NE(of_sum(x_, {0}, false), of_sum(x_, {0, 1}, false));
  EXPECT_NE(of_sum(x_, {0}, false), of_sum(x_, {0}, true));
}

TEST_F(Key, tells_a_list_from_the_numbers_after_it) {
  const Op& op = op_named("aten::roll", "");
  const auto of_roll = [&](std::vector<int64_t> shifts,
                           std::vector<int64_t> dims) {
    return key(op, {x_, c10::IValue(shifts), c10::IValue(dims)});
  };
  EXPECT_NE(of_roll({1, 0}, {1}), of_roll({1}, {0, 1}));
}

TEST_F(Key, found_again_makes_no_plan) {
  const at::Tensor y = on(mesh_, at::ones({5, 7}), "(S0, R)");
  const at::Tensor first = y.mul(y);
  const Counting counting;
  const at::Tensor second = first.mul(y);
  EXPECT_EQ(counting.so_far().plans_made, 0);
  EXPECT_EQ(counting.so_far().ops, 1);
  EXPECT_EQ(layout_of(second), layout_of(first));
}

}  // namespace
}  // namespace torch_mesh

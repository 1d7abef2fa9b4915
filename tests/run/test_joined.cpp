// Shards side by side: joined by where they lie, and only then.

#include <gtest/gtest.h>

#include "core/shapes.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>

#include "device/meshes.h"
#include "shard/joined.h"
#include "shard/local_ops.h"
#include "shard/slice.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

at::Tensor value() { return at::arange(15, at::kFloat).view({5, 3}); }

Shards slices(const at::Tensor& whole, int64_t dim, std::vector<int64_t> ends) {
  Shards shards;
  int64_t begin = 0;
  for (int64_t end : ends) {
    shards.push_back(whole.narrow(dim, begin, end - begin));
    begin = end;
  }
  return shards;
}

TEST(Joined, slices_of_one_tensor_are_that_tensor) {
  const at::Tensor whole = value();
  for (int64_t dim : {0, 1}) {
    const auto joined = join_shards(slices(whole, dim, {2, 3}), dim);
    ASSERT_TRUE(joined);
    EXPECT_EQ(joined->data_ptr(), whole.data_ptr());
    EXPECT_EQ(joined->strides(), whole.strides());
    EXPECT_EQ(joined->size(dim), 3);
  }
}

TEST(Joined, empty_last_shards_add_nothing) {
  const auto joined = join_shards(slices(value(), 0, {3, 5, 5, 5}), 0);
  ASSERT_TRUE(joined);
  EXPECT_TRUE(at::equal(*joined, value()));
}

TEST(Joined, shards_that_lie_elsewhere_stay_apart) {
  const at::Tensor whole = value();
  Shards swapped = slices(whole, 0, {2, 4});
  std::swap(swapped[0], swapped[1]);
  EXPECT_FALSE(join_shards(swapped, 0));
  EXPECT_FALSE(join_shards({whole.narrow(0, 0, 2), whole.narrow(0, 3, 2)}, 0));
  EXPECT_FALSE(join_shards({value(), value()}, 0));
  EXPECT_FALSE(join_shards({value(), value()}, -1));
  // The other half of a complex tensor is conjugated by a bit, not in memory.
  const at::Tensor complex = value().to(at::kComplexFloat);
  EXPECT_FALSE(join_shards(
      {complex.narrow(0, 0, 2), complex.narrow(0, 2, 3).conj()}, 0));
}

TEST(Joined, a_slice_is_a_view) {
  const at::Tensor whole = value();
  const at::Tensor slice = slice_of(whole, 0, 2, 2);
  EXPECT_TRUE(at::equal(slice, whole.narrow(0, 2, 2)));
  slice.zero_();
  EXPECT_EQ(whole[2][0].item<float>(), 0);
}

TEST(Joined, only_one_dim_in_whole_chunks_can_join) {
  const Mesh mesh = mesh_of(false);  // two axes
  EXPECT_EQ(cut_dim(Layout::parse(mesh, "(S0, R)")), 0);
  EXPECT_EQ(cut_dim(Layout::parse(mesh, "(S1, S1)")), 1);
  EXPECT_EQ(cut_dim(Layout::parse(mesh, "(R, P+)")), -1);
  EXPECT_FALSE(cut_dim(Layout::parse(mesh, "(S0, S1)")));
  EXPECT_FALSE(cut_dim(Layout::parse(mesh, "(S0/4, R)")));
}

// Whether the shards of `tensor` are slices of one tensor.
bool is_joined(const at::Tensor& tensor) {
  const LocalOps local;
  return join_shards(read(tensor), 0).has_value();
}

TEST(Joined, results_of_joined_shards_are_joined) {
  const at::Tensor host = value();
  const Layout layout = Layout::parse(mesh_of(false), "(S0, R)");
  const at::Tensor x = borrow(host, layout);
  ASSERT_TRUE(is_joined(x));
  const at::Tensor y = x.mul(2);
  EXPECT_TRUE(is_joined(y));
  EXPECT_EQ(layout_of(y).str(), "(S0, R)");
  EXPECT_TRUE(has_value(y, host.mul(2)));
  EXPECT_TRUE(has_value(y.t().mm(y), host.t().mm(host).mul(4)));
  // A view, and a write through it, reach the storage that was joined.
  y.t().add_(1);
  y.select(1, 0).zero_();
  at::Tensor expected = host.mul(2).add(1);
  expected.select(1, 0).zero_();
  EXPECT_TRUE(has_value(y, expected));
  EXPECT_TRUE(has_value(x, host));
}

TEST(Joined, what_is_distributed_is_copied_as_one) {
  const at::Tensor host = value();
  for (const char* text : {"(S0, R)", "(R, S0)", "(S0, S0)"}) {
    const Layout layout = Layout::parse(mesh_of(false), text);
    const at::Tensor x = distribute(host, layout);
    EXPECT_TRUE(is_joined(x)) << text;
    EXPECT_FALSE(read(x)[0].shares_memory_with(host));
    EXPECT_TRUE(has_value(x, host));
    // A view taken before the shards are others finds its place in those.
    const at::Tensor view = x.narrow(0, 1, 3);
    x.view({5, 3}).add_(1);
    EXPECT_TRUE(has_value(view, host.narrow(0, 1, 3).add(1)));
  }
  // Slices of it would not be dense.
  EXPECT_FALSE(is_joined(
      distribute(host.t(), Layout::parse(mesh_of(false), "(S0, R)"))));
  EXPECT_FALSE(
      is_joined(distribute(host, Layout::parse(mesh_of(true), "(S0, R)"))));
}

TEST(Joined, views_of_one_row_a_device_are_joined) {
  const at::Tensor host = at::arange(30, at::kFloat).view({2, 5, 3});
  const at::Tensor x =
      distribute(host, Layout::parse(mesh_of(false), "(S0, R)"));
  const at::Tensor last = x.narrow(1, 4, 1);
  EXPECT_TRUE(is_joined(last));
  EXPECT_TRUE(is_joined(last.expand({2, 4, 3}).clone()));
  EXPECT_TRUE(has_value(last.view({2, 3}), host.narrow(1, 4, 1).view({2, 3})));
}

TEST(Joined, one_thread_joins_ops_of_any_size) {
  const int threads = at::get_num_threads();
  const at::Tensor host = at::ones({512, 512});
  const at::Tensor x =
      distribute(host, Layout::parse(mesh_of(false), "(S0, R)"));
  at::set_num_threads(1);
  EXPECT_TRUE(is_joined(x.mm(host)));
  at::set_num_threads(2);
  EXPECT_FALSE(is_joined(x.mm(host)));
  EXPECT_TRUE(is_joined(x.mul(2)));
  at::set_num_threads(threads);
}

TEST(Joined, memories_of_their_own_never_join) {
  const Layout layout = Layout::parse(mesh_of(true), "(S0, R)");
  const at::Tensor y = borrow(value(), layout).mul(2);
  EXPECT_FALSE(is_joined(y));
  EXPECT_TRUE(has_value(y, value().mul(2)));
}

}  // namespace
}  // namespace torch_mesh

// Windows on a storage: reads and writes mean what they mean in plain torch.

#include <gtest/gtest.h>

#include <functional>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include "device/meshes.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

at::Tensor value() { return at::arange(24, at::kFloat).view({4, 6}); }

// Runs `write` on a plain tensor and on global ones in several layouts: base
// and window must agree afterwards.
void check(const std::function<at::Tensor(const at::Tensor&)>& write) {
  const at::Tensor plain = value();
  const at::Tensor window = write(plain);
  for (bool separate : {false, true}) {
    const Mesh mesh = mesh_of(separate);
    for (const char* layout :
         {"(R, R)", "(S0, R)", "(S0, S1)", "(S1, S1)", "(R, P+)"}) {
      const at::Tensor base = on(mesh, value(), layout);
      const at::Tensor part = write(base);
      EXPECT_TRUE(has_value(base, plain)) << layout << " base";
      EXPECT_TRUE(has_value(part, window)) << layout << " window";
    }
  }
}

bool is_alias(const at::Tensor& window, const at::Tensor& base) {
  return read(window)[0].shares_memory_with(read(base)[0]);
}

TEST(Window, along_a_whole_dim_is_an_alias) {
  const at::Tensor base = on(mesh_of(false), value(), "(S0, R)");
  const at::Tensor window = base.narrow(1, 2, 3);
  EXPECT_TRUE(is_alias(window, base));
  EXPECT_FALSE(meta_of(window).is_write_back);
}

TEST(Window, of_a_sharded_dim_is_a_copy_that_is_written_back) {
  const at::Tensor base = on(mesh_of(false), value(), "(S0, R)");
  const at::Tensor window = base.select(0, 1);
  EXPECT_TRUE(meta_of(window).is_write_back);
  window.fill_(7);
  EXPECT_TRUE(at::equal(full(base)[1], at::full({6}, 7.0f)));
}

TEST(Window, is_taken_again_when_its_base_was_written) {
  check([](const at::Tensor& base) {
    const at::Tensor window = base.select(0, 1);
    window.sum();
    base.mul_(2);
    return window;
  });
}

TEST(Window, writes_its_base_in_every_layout) {
  check([](const at::Tensor& t) { return t.select(0, 2).fill_(-1); });
  check([](const at::Tensor& t) { return t.narrow(0, 1, 2).mul_(3); });
  check([](const at::Tensor& t) { return t.t().select(0, 5).zero_(); });
  check(
      [](const at::Tensor& t) { return t.view({2, 12}).narrow(1, 4, 5) += 1; });
  check([](const at::Tensor& t) { return t.diagonal().neg_(); });
}

TEST(Window, sees_what_another_window_wrote) {
  check([](const at::Tensor& base) {
    const at::Tensor row = base.select(0, 1);
    base.select(1, 3).fill_(9);
    return row;
  });
}

TEST(Window, as_strided_addresses_the_storage) {
  check([](const at::Tensor& t) { return t.as_strided({3, 2}, {1, 7}, 2); });
  check([](const at::Tensor& t) { return t.as_strided({4}, {5}, 3).fill_(8); });
  check([](const at::Tensor& t) {
    // Of a view: still of the storage, not of the view.
    return t.narrow(0, 2, 2).as_strided({2, 2}, {6, 1}, 0).mul_(10);
  });
}

TEST(Window, resize_keeps_what_is_in_the_storage) {
  check([](const at::Tensor& t) {
    const at::Tensor alone = t.clone();
    alone.resize_({2, 3});
    return alone;
  });
}

TEST(Window, of_a_detached_tensor_is_of_the_same_storage) {
  check([](const at::Tensor& t) { return t.detach().fill_(4); });
}

}  // namespace
}  // namespace torch_mesh

// Storages: addresses, unwritten memory, borrowed memory, broken values.

#include <gtest/gtest.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>

#include "device/meshes.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

at::Tensor value() { return at::arange(8, at::kFloat).view({4, 2}); }

uintptr_t address(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.storage().data());
}

at::Tensor unwritten() {
  return at::empty({4, 2}, at::TensorOptions(mesh_device()));
}

TEST(Storage, has_an_address_range_of_its_own) {
  const Mesh mesh = mesh_of(false);
  const at::Tensor a = on(mesh, value(), "(S0, R)");
  const at::Tensor b = on(mesh, value(), "(R, R)");
  EXPECT_GE(address(b), address(a) + a.storage().nbytes());
  EXPECT_EQ(a.storage().nbytes(), value().storage().nbytes());
}

TEST(Storage, is_shared_by_base_view_and_detached) {
  const at::Tensor base = on(mesh_of(false), value(), "(S0, R)");
  EXPECT_TRUE(base.is_alias_of(base.select(0, 1)));
  EXPECT_TRUE(base.is_alias_of(base.detach()));
  EXPECT_FALSE(base.is_alias_of(base.clone()));
}

TEST(Storage, unwritten_takes_the_layout_of_its_first_value) {
  const at::Tensor source = on(mesh_of(false), value(), "(S0, S1)");
  const at::Tensor target = unwritten();
  EXPECT_TRUE(is_unwritten(target));
  target.copy_(source);
  EXPECT_FALSE(is_unwritten(target));
  EXPECT_EQ(layout_of(target).str(), "(S0, S1)");
  EXPECT_TRUE(has_value(target, value()));
}

TEST(Storage, written_keeps_its_layout) {
  const Mesh mesh = mesh_of(false);
  const at::Tensor target = on(mesh, value(), "(S0, R)");
  target.copy_(on(mesh, value().mul(2), "(R, S1)"));
  EXPECT_EQ(layout_of(target).str(), "(S0, R)");
  EXPECT_TRUE(has_value(target, value().mul(2)));
}

TEST(Storage, borrowed_is_read_in_place_and_copied_when_written) {
  const at::Tensor plain = value();
  const at::Tensor borrowed =
      borrow(plain, Layout::parse(mesh_of(false), "(S0, R)"));
  EXPECT_TRUE(read(borrowed)[0].shares_memory_with(plain));
  borrowed.mul_(3);
  EXPECT_TRUE(at::equal(plain, value()));
  EXPECT_TRUE(has_value(borrowed, value().mul(3)));
}

TEST(Storage, of_a_distributed_tensor_is_never_the_plain_one) {
  const at::Tensor plain = value();
  const at::Tensor copy = on(mesh_of(false), plain, "(R, R)");
  copy.zero_();
  EXPECT_TRUE(at::equal(plain, value()));
}

TEST(Storage, broken_says_why_and_heals_when_all_of_it_is_written) {
  const at::Tensor tensor = on(mesh_of(false), value(), "(S0, R)");
  mark_broken(tensor, "mm: out of memory");
  try {
    tensor.sum();
    FAIL() << "a half-written value was read";
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    EXPECT_NE(text.find("mm: out of memory"), std::string::npos) << text;
    EXPECT_NE(text.find("[broken-tensor]"), std::string::npos) << text;
  }
  tensor.copy_(value());
  EXPECT_TRUE(has_value(tensor, value()));
}

TEST(Storage, reduces_a_pending_sum_once_for_all_who_share_it) {
  for (bool separate : {false, true}) {
    const at::Tensor base = on(mesh_of(separate), value(), "(P+, R)");
    const at::Tensor window = base.select(0, 1);
    const std::vector<at::Tensor> tensors{base};
    reduce_partials(tensors);
    EXPECT_EQ(layout_of(base).str(), "(R, R)");
    EXPECT_TRUE(has_value(window, value()[1]));
    EXPECT_FALSE(layout_of(window).has_partial());
  }
}

}  // namespace
}  // namespace torch_mesh

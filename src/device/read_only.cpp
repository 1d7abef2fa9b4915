// read_only.cpp: a dispatch key above all others that looks for writes.
//
// The key is one that torch keeps for libraries outside of it and has no kernel
// for. Views inherit the keys of their base, and fresh results have none of
// their arguments', so it stays with the memory that it guards.

#include "device/read_only.h"

#include <mutex>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/core/TensorImpl.h>

#include "device/operators.h"

namespace torch_mesh {
namespace {

constexpr auto kKey = c10::DispatchKey::DeferredInit;

bool is_read_only(const at::Tensor& tensor) {
  return tensor.defined() && tensor.unsafeGetTensorImpl()->key_set().has(kKey);
}

bool holds_read_only(const c10::IValue& value) {
  if (value.isTensor()) {
    return is_read_only(value.toTensor());
  }
  if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) {
      if (is_read_only(tensor)) {
        return true;
      }
    }
  }
  return false;
}

void check_writes(
    const c10::OperatorHandle& op,
    const torch::jit::Stack& stack) {
  // Those change a tensor object, and no memory.
  if (op.hasTag(at::Tag::inplace_view)) {
    return;
  }
  const std::vector<c10::Argument>& params = op.schema().arguments();
  const size_t base = stack.size() - params.size();
  for (size_t i = 0; i < params.size(); ++i) {
    const c10::AliasInfo* alias = params[i].alias_info();
    TORCH_CHECK(
        !alias || !alias->isWrite() || !holds_read_only(stack[base + i]),
        op.schema().name(),
        ": this tensor shows what a device holds, and a write to it would not"
        " reach the device.\nHint: change a clone() and give all shards to"
        " torch_mesh.from_shards, or write a function of one shard for"
        " torch_mesh.map_shards. [shards-read-only]");
  }
}

void refuse_writes(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    torch::jit::Stack* stack) {
  check_writes(op, *stack);
  op.redispatchBoxed(
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
}

void register_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    add_fallback(
        kKey, c10::KernelFunction::makeFromBoxedFunction<&refuse_writes>());
  });
}

}  // namespace

at::Tensor read_only(const at::Tensor& tensor) {
  register_once();
  auto impl = c10::make_intrusive<c10::TensorImpl>(
      c10::TensorImpl::VIEW,
      c10::Storage(tensor.storage()),
      tensor.key_set().add(kKey),
      tensor.dtype());
  impl->set_sizes_and_strides(
      tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return at::Tensor(std::move(impl));
}

}  // namespace torch_mesh

// whole_values.cpp: storages in whole, torch's op, storages back.

#include "dispatch/whole_values.h"

#include <map>

#include "run/arguments.h"
#include "tensor/global_tensor.h"
#include "tensor/pending_sums.h"
#include "tensor/window.h"

namespace torch_mesh {
namespace {

// A storage of the call, as a vector of its elements.
struct Whole {
  at::Tensor global;
  at::Tensor plain;
};

at::Tensor view_in(const Whole& whole, const at::Tensor& tensor) {
  at::Tensor view = whole.plain.as_strided(
      tensor.sizes(), tensor.strides(), tensor.storage_offset());
  view = tensor.is_conj() ? view.conj() : view;
  return tensor.is_neg() ? view._neg_view() : view;
}

}  // namespace

void give_back(const Op& op, Stack& stack, const Stack& results) {
  const size_t base = stack.size() - op.params.size();
  Stack given;
  for (size_t r = 0; r < results.size(); ++r) {
    const OpSchema::Param& returned = op.schema.returns[r];
    given.push_back(
        returned.is_written ? stack[base + op.written_param(returned.alias)]
                            : results[r]);
  }
  stack.resize(base);
  for (c10::IValue& result : given) {
    stack.push_back(std::move(result));
  }
}

void run_on_whole_values(
    const Op& op,
    const CallTensors& tensors,
    c10::Device device,
    Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const c10::ArrayRef<c10::IValue> args(stack.data() + base, op.params.size());
  std::map<const void*, Whole> written;
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (!entry.is_written || !entry.is_global) {
      continue;
    }
    const at::Tensor& tensor = *entry.tensor;
    const MeshStorage* storage = MeshStorage::of(tensor);
    if (written.count(storage)) {
      continue;
    }
    reduce_pending(tensor, layout_of(tensor).partial_axes());
    const at::Tensor global = window_of_storage(
        tensor.storage(),
        {static_cast<int64_t>(storage->nbytes() / tensor.itemsize())},
        {1},
        0,
        tensor.scalar_type());
    written[storage] = {global,
                        full_value(global).to(
                            device,
                            tensor.scalar_type(),
                            /*non_blocking=*/false,
                            /*copy=*/true)};
  }
  Stack local;
  push_arguments(
      op, args, device, local, [&](const at::Tensor& tensor, size_t, size_t n) {
        if (!tensors.entries[n].is_global) {
          return tensor;
        }
        const auto whole = written.find(MeshStorage::of(tensor));
        return whole != written.end() &&
                       whole->second.plain.scalar_type() == tensor.scalar_type()
                   ? view_in(whole->second, tensor)
                   : full_value(tensor).to(device);
      });
  op.handle.callBoxed(local);
  for (const auto& [storage, whole] : written) {
    write_value(whole.global, whole.plain);
  }
  give_back(op, stack, local);
}

}  // namespace torch_mesh

// overlapping_destinations.cpp: storages in whole, torch's op, storages back.

#include "dispatch/overlapping_destinations.h"

#include <algorithm>
#include <map>

#include "dispatch/arguments.h"
#include "tensor/global_tensor.h"
#include "tensor/window.h"

namespace torch_mesh {
namespace {

// Whether two elements may be one place: not if each stride steps over all that
// the smaller ones reach.
bool lies_over_itself(const at::Tensor& tensor) {
  if (tensor.numel() < 2 || tensor.is_non_overlapping_and_dense()) {
    return false;
  }
  c10::SmallVector<std::pair<int64_t, int64_t>, 5> dims;  // stride, size
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) {
      dims.emplace_back(tensor.stride(d), tensor.size(d));
    }
  }
  std::sort(dims.begin(), dims.end());
  int64_t reach = 0;
  for (const auto& [stride, size] : dims) {
    if (stride <= reach) {
      return true;
    }
    reach += (size - 1) * stride;
  }
  return false;
}

// A storage of the call, as a vector of its elements.
struct Whole {
  at::Tensor global;
  at::Tensor plain;
};

at::Tensor view_in(const Whole& whole, const at::Tensor& tensor) {
  return whole.plain.as_strided(
      tensor.sizes(), tensor.strides(), tensor.storage_offset());
}

}  // namespace

bool writes_over_itself(const Op& op, const CallTensors& tensors) {
  if (op.is_out || op.is_foreach || op.is_inplace_view || op.is_random) {
    return false;
  }
  for (const OpSchema::Param& returned : op.schema.returns) {
    if (!returned.is_written) {
      return false;  // it makes tensors beside
    }
  }
  const bool any = std::any_of(
      tensors.entries.begin(),
      tensors.entries.end(),
      [](const CallTensors::Entry& entry) {
        return entry.is_written && entry.is_global &&
               lies_over_itself(*entry.tensor);
      });
  return any && op.base_name != "aten::fill_" && op.base_name != "aten::zero_";
}

void run_over_itself(const Op& op, const CallTensors& tensors, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const c10::ArrayRef<c10::IValue> args(stack.data() + base, op.params.size());
  std::map<const void*, Whole> written;
  c10::Device device = c10::kCPU;
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (!entry.is_written || !entry.is_global) {
      continue;
    }
    const at::Tensor& tensor = *entry.tensor;
    const MeshStorage* storage = MeshStorage::of(tensor);
    if (written.count(storage)) {
      continue;
    }
    reduce_storage(tensor, layout_of(tensor).partial_axes());
    device = torch_device(layout_of(tensor).mesh().devices()[0]);
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
  for (size_t r = 0; r < op.schema.returns.size(); ++r) {
    local[r] = args[op.written_param(op.schema.returns[r].alias)];
  }
  stack.resize(base);
  std::move(local.begin(), local.end(), std::back_inserter(stack));
}

}  // namespace torch_mesh

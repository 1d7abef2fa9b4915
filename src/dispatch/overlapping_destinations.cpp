// overlapping_destinations.cpp: by strides alone; shards do not show it.

#include "dispatch/overlapping_destinations.h"

#include <algorithm>

#include "dispatch/whole_values.h"
#include "rules/families.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"

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
  return any && !rules::op_says(op.schema.name, "bears_overlap");
}

void run_over_itself(const Op& op, const CallTensors& tensors, Stack& stack) {
  const auto written = std::find_if(
      tensors.entries.begin(), tensors.entries.end(), [](const auto& entry) {
        return entry.is_written && entry.is_global;
      });
  const Mesh& mesh = layout_of(*written->tensor).mesh();
  run_on_whole_values(op, tensors, torch_device(mesh.devices()[0]), stack);
}

}  // namespace torch_mesh

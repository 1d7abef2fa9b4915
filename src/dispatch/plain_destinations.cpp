// plain_destinations.cpp: whole values in, one op, plain tensors written.

#include "dispatch/plain_destinations.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>

#include <torch_mesh/tensor.h>

#include "dispatch/ops.h"
#include "dispatch/plain_gradients.h"
#include "dispatch/whole_values.h"
#include "run/arguments.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

struct Written {
  at::Tensor tensor;    // of the call
  at::Tensor stand_in;  // written in its place
};

Mesh mesh_of(const CallTensors& tensors) {
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (entry.is_global && layout_of(*entry.tensor).mesh().num_axes() > 0) {
      return layout_of(*entry.tensor).mesh();
    }
  }
  return Mesh();
}

void run_plain(const Op& op, const CallTensors& tensors, Stack& stack) {
  const auto destination = std::find_if(
      tensors.entries.begin(), tensors.entries.end(), [](const auto& entry) {
        return entry.is_written && !entry.is_global;
      });
  run_on_whole_values(op, tensors, destination->tensor->device(), stack);
}

void run_on_stand_ins(const Op& op, const CallTensors& tensors, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const c10::ArrayRef<c10::IValue> args(stack.data() + base, op.params.size());
  const Layout replicated = Layout::replicated(mesh_of(tensors));
  std::vector<Written> written;
  Stack global;
  push_arguments(
      op,
      args,
      mesh_device(),
      global,
      [&](const at::Tensor& tensor, size_t, size_t n) {
        const CallTensors::Entry& entry = tensors.entries[n];
        if (entry.is_global || !entry.is_written) {
          return tensor;
        }
        written.push_back({tensor, distribute(tensor, replicated)});
        return written.back().stand_in;
      });
  run_op(op, global);
  for (const Written& plain : written) {
    plain.tensor.copy_(full_value(plain.stand_in));
  }
  give_back(op, stack, global);
}

}  // namespace

bool writes_plain(const Op& op, const CallTensors& tensors) {
  return !op.is_foreach && !op.is_out &&
         std::any_of(
             tensors.entries.begin(),
             tensors.entries.end(),
             [](const CallTensors::Entry& entry) {
               return entry.is_written && !entry.is_global;
             });
}

void run_on_plain(const Op& op, const CallTensors& tensors, Stack& stack) {
  const bool records = at::GradMode::is_enabled();
  if (records) {
    bring_gradients_to_mesh(tensors);
  }
  const size_t base = stack.size() - op.params.size();
  const bool makes_new = std::any_of(
      op.schema.returns.begin(), op.schema.returns.end(), [](const auto& r) {
        return (r.is_tensor || r.is_tensor_list) && !r.is_written;
      });
  if (makes_new) {
    run_on_stand_ins(op, tensors, stack);
  } else {
    run_plain(op, tensors, stack);
  }
  if (records) {
    watch_results(
        c10::ArrayRef<c10::IValue>(stack.data() + base, stack.size() - base));
  }
}

}  // namespace torch_mesh

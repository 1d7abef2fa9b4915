// plain_destinations.cpp: whole values in, one op, plain tensors written.

#include "dispatch/plain_destinations.h"

#include <algorithm>

#include <ATen/core/grad_mode.h>

#include <torch_mesh/tensor.h>

#include "dispatch/arguments.h"
#include "dispatch/plain_gradients.h"
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

void write_global(const at::Tensor& tensor, const at::Tensor& value) {
  reduce_storage(tensor, layout_of(tensor).partial_axes());
  write_value(tensor, value);
}

// The results of a local call that are arguments of this one.
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

void run_plain(const Op& op, const CallTensors& tensors, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const c10::ArrayRef<c10::IValue> args(stack.data() + base, op.params.size());
  const auto destination = std::find_if(
      tensors.entries.begin(), tensors.entries.end(), [](const auto& entry) {
        return entry.is_written && !entry.is_global;
      });
  const c10::Device device = destination->tensor->device();
  std::vector<Written> written;
  Stack local;
  push_arguments(
      op, args, device, local, [&](const at::Tensor& tensor, size_t, size_t n) {
        if (!tensors.entries[n].is_global) {
          return tensor;
        }
        const bool is_written = tensors.entries[n].is_written;
        const at::Tensor whole = full_value(tensor);
        at::Tensor value = whole.to(
            device,
            whole.scalar_type(),
            /*non_blocking=*/false,
            /*copy=*/is_written);
        if (is_written) {
          written.push_back({tensor, value});
        }
        return value;
      });
  op.handle.callBoxed(local);
  for (const Written& global : written) {
    write_global(global.tensor, global.stand_in);
  }
  give_back(op, stack, local);
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

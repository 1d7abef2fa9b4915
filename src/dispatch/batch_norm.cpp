// batch_norm.cpp: runs the batch norm whose schema names what it writes.

#include "dispatch/batch_norm.h"

#include <ATen/core/Tensor.h>

#include <torch_mesh/tensor.h>

#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

constexpr size_t kRunningMean = 3;
constexpr size_t kRunningVar = 4;
constexpr size_t kTraining = 5;

bool is_there(const c10::IValue& value) {
  return value.isTensor() && value.toTensor().defined();
}

// How the statistics stand if each channel's stand with that channel.
Layout layout_of_channels(const Layout& input) {
  std::vector<Placement> placements;
  for (const Placement& placement : input.placements()) {
    placements.push_back(
        placement.is_shard(1) ? Placement::shard(0, placement.block)
                              : Placement::replicate());
  }
  return Layout(input.mesh(), placements);
}

bool is_in_a_format(const at::Tensor& t) {
  return !t.defined() || t.is_contiguous() ||
         t.is_contiguous(at::MemoryFormat::ChannelsLast) ||
         t.is_contiguous(at::MemoryFormat::ChannelsLast3d);
}

}  // namespace

at::MemoryFormat format_of_batch_norm(
    const at::Tensor& input,
    const at::Tensor& gradient) {
  if (!is_in_a_format(input) || !is_in_a_format(gradient)) {
    return input.suggest_memory_format();
  }
  for (const at::MemoryFormat format :
       {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    if (input.is_contiguous(format)) {
      return format;
    }
  }
  return at::MemoryFormat::ChannelsLast3d;
}

bool run_batch_norm(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const at::Tensor input = stack[base].toTensor();
  if (!stack[base + kTraining].toBool() ||
      !is_there(stack[base + kRunningMean]) ||
      !is_there(stack[base + kRunningVar])) {
    return false;
  }
  static const Op& legit = op_named("aten::_native_batch_norm_legit", "");
  const at::Tensor mean = stack[base + kRunningMean].toTensor();
  const at::Tensor var = stack[base + kRunningVar].toTensor();
  // A written argument keeps its layout, so channels that are sharded write to
  // copies that are sharded alike; else the input would be gathered.
  const bool channels_are_cut =
      is_global(input) && input.dim() > 1 && layout_of(input).shards_dim(1);
  if (!channels_are_cut) {
    legit.handle.callBoxed(stack);
    return true;
  }
  const Layout layout = layout_of_channels(layout_of(input));
  const at::Tensor local_mean = distribute(mean, layout);
  const at::Tensor local_var = distribute(var, layout);
  stack[base + kRunningMean] = local_mean;
  stack[base + kRunningVar] = local_var;
  legit.handle.callBoxed(stack);
  mean.copy_(local_mean);
  var.copy_(local_var);
  return true;
}

}  // namespace torch_mesh

// batch_norm.cpp: runs the batch norm whose schema names what it writes, and
// torch's own kernel where the whole batch lies in one memory.

#include "dispatch/batch_norm.h"

#include <optional>

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

#include <torch_mesh/tensor.h>

#include "comm/communicator_steps.h"
#include "comm/slice.h"
#include "dispatch/local_kernel.h"
#include "run/joined.h"
#include "tensor/global_tensor.h"
#include "tensor/shard.h"

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

// The batch as one tensor: cut in `layout`, and slices of one memory. It lies
// as the global tensor says, also where a dim of one element hides it.
std::optional<at::Tensor> whole_batch(
    const at::Tensor& tensor,
    const Layout& layout) {
  if (!is_global(tensor) || layout_of(tensor) != layout) {
    return std::nullopt;
  }
  const Held now = held(tensor);
  if (now.layout != layout) {
    return std::nullopt;
  }
  const std::optional<at::Tensor> whole = join_shards(now.shards, /*dim=*/0);
  if (!whole) {
    return std::nullopt;
  }
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1 && tensor.stride(d) != whole->stride(d)) {
      return std::nullopt;
    }
  }
  return with_strides(*whole, tensor.strides());
}

// Counts the sum of a number for each channel over the devices that hold parts
// of the batch.
void count_sum(const at::Tensor& input) {
  const Layout layout = layout_of(input);
  Layout parts = Layout::replicated(layout.mesh());
  for (int axis = 0; axis < layout.mesh().num_axes(); ++axis) {
    if (layout[axis].is_shard()) {
      parts = parts.with(axis, Placement::partial());
    }
  }
  const int64_t sizes[] = {input.size(1)};
  const auto itemsize = static_cast<int64_t>(
      c10::elementSize(at::toOpMathType(input.scalar_type())));
  run_redistribution(
      plan_redistribution(
          parts, Layout::replicated(layout.mesh()), sizes, itemsize),
      Shards(parts.lanes().num));
}

at::Tensor slices_of_batch(const at::Tensor& whole, const Layout& layout) {
  const std::vector<int64_t> sizes = whole.sizes().vec();
  const bool dense = whole.stride(0) * whole.size(0) == whole.numel();
  Shards slices;
  for (int device : layout.lanes().first_device) {
    const Range range = shard_range(layout, sizes, 0, device);
    const at::Tensor slice = slice_of(whole, 0, range.begin, range.length);
    slices.push_back(dense ? slice : slice.clone());
  }
  return make_global(
      layout, sizes, whole.strides(), whole.scalar_type(), std::move(slices));
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

bool run_on_whole_batch(const Op& op, Stack& stack) {
  const size_t num_args = op.params.size();
  const c10::ArrayRef<c10::IValue> args(
      stack.data() + stack.size() - num_args, num_args);
  const at::Tensor input = args[op.schema.param("input")].toTensor();
  if (!is_global(input)) {
    return false;
  }
  const Layout layout = layout_of(input);
  const Mesh& mesh = layout.mesh();
  if (!mesh.one_memory() || cut_dim(layout) != 0 || layout.has_partial()) {
    return false;
  }
  const int mask = op.schema.param("output_mask");
  if (mask >= 0 && !args[mask].toBoolList()[0]) {
    return false;  // the sums are not used yet, and stay pending
  }
  const Layout whole = Layout::replicated(mesh);
  Stack local;
  std::vector<size_t> written;
  for (size_t i = 0; i < num_args; ++i) {
    const OpSchema::Param& param = op.schema.params[i];
    if (!is_there(args[i])) {
      local.push_back(args[i]);
      continue;
    }
    const at::Tensor tensor = args[i].toTensor();
    if (param.name == "input" || param.name == "grad_out") {
      std::optional<at::Tensor> batch = whole_batch(tensor, layout);
      if (!batch) {
        return false;
      }
      local.push_back(std::move(*batch));
      continue;
    }
    if (!is_global(tensor) || layout_of(tensor) != whole) {
      return false;
    }
    local.push_back(read(tensor)[0]);
    if (param.is_written) {
      written.push_back(i);
    }
  }
  for (const size_t i : written) {
    local[i] = begin_write(args[i].toTensor())[0];
  }
  run_local(op, local);
  for (const size_t i : written) {
    end_write(args[i].toTensor());
  }
  stack.resize(stack.size() - num_args);
  for (size_t r = 0; r < local.size(); ++r) {
    const at::Tensor result = local[r].toTensor();
    if (r == 0) {
      stack.emplace_back(slices_of_batch(result, layout));
      continue;
    }
    count_sum(input);
    if (!result.defined()) {
      stack.emplace_back(result);
      continue;
    }
    stack.emplace_back(make_global(
        whole,
        result.sizes(),
        result.strides(),
        result.scalar_type(),
        {result}));
  }
  return true;
}

}  // namespace torch_mesh

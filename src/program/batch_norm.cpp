// batch_norm.cpp: runs the batch norm whose schema names what it writes, and
// torch's own kernel where the whole batch lies in one memory.

#include "program/batch_norm.h"

#include <optional>

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>

#include <torch_mesh/redistribute.h>
#include <torch_mesh/tensor.h>

#include "program/programs.h"
#include "run/local_kernel.h"
#include "run/stand_ins.h"
#include "shard/joined.h"
#include "shard/slice.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "tensor/global_tensor.h"
#include "trace/counters.h"

namespace torch_mesh::programs {
namespace {

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

// Whether only the batch and the channels are cut, each in whole chunks, so
// that every device has some channels.
bool is_cut_as_known(const Layout& layout, const at::Tensor& input) {
  for (const Placement& placement : layout.placements()) {
    if (placement.is_partial() ||
        (placement.is_shard() && (placement.block != 0 || placement.dim > 1))) {
      return false;
    }
  }
  const std::vector<int64_t> sizes = input.sizes().vec();
  for (const int device : layout.lanes().first_device) {
    if (shard_range(layout, sizes, 1, device).length == 0) {
      return false;
    }
  }
  return input.numel() != 0 && layout.mesh().is_all_mine();
}

// The lanes that hold parts of the batch, for each part of the channels.
std::vector<std::vector<int>> lanes_of_channels(
    const Layout& input,
    const Layout& channels) {
  std::vector<std::vector<int>> lanes(channels.lanes().num);
  for (int lane = 0; lane < input.lanes().num; ++lane) {
    const int device = input.lanes().first_device[lane];
    lanes[channels.lanes().lane_of_device[device]].push_back(lane);
  }
  return lanes;
}

// The whole batch, as its dims lie in the global tensor.
at::Tensor whole_batch(
    const Shards& shards,
    const std::vector<int>& lanes,
    c10::IntArrayRef strides) {
  Shards parts;
  for (const int lane : lanes) {
    parts.push_back(shards[lane]);
  }
  return in_order(join_or_copy(parts, /*dim=*/0), strides);
}

// Counts the sum of a number for each channel over the devices that hold parts
// of the batch.
void count_sum(
    const Layout& input,
    const Layout& channels,
    const at::Tensor& like) {
  Layout parts = channels;
  for (int axis = 0; axis < input.mesh().num_axes(); ++axis) {
    if (input[axis].is_shard(0)) {
      parts = parts.with(axis, Placement::partial());
    }
  }
  const int64_t sizes[] = {like.size(1)};
  const auto itemsize = static_cast<int64_t>(
      c10::elementSize(at::toOpMathType(like.scalar_type())));
  const Redistribution sum =
      plan_redistribution(parts, channels, sizes, itemsize);
  for (const Step& step : sum.steps) {
    count_step(step);
  }
}

}  // namespace

// Running statistics that a schema does not own up to: in training it writes
// them. `_native_batch_norm_legit` is the same op and says so.
bool native_batch_norm(const CallArgs& args) {
  if (!args["training"].toBool() || !args.is_there("running_mean") ||
      !args.is_there("running_var")) {
    return false;
  }
  static const Op& legit = op_named("aten::_native_batch_norm_legit", "");
  const at::Tensor input = args.tensor("input");
  const at::Tensor mean = args.tensor("running_mean");
  const at::Tensor var = args.tensor("running_var");
  // A written argument keeps its layout, so channels that are sharded write to
  // copies that are sharded alike; else the input would be gathered.
  const bool channels_are_cut =
      is_global(input) && input.dim() > 1 && layout_of(input).shards_dim(1);
  if (!channels_are_cut) {
    legit.handle.callBoxed(args.stack);
    return true;
  }
  const Layout layout = layout_of_channels(layout_of(input));
  const at::Tensor local_mean = distribute(mean, layout);
  const at::Tensor local_var = distribute(var, layout);
  args["running_mean"] = local_mean;
  args["running_var"] = local_var;
  legit.handle.callBoxed(args.stack);
  mean.copy_(local_mean);
  var.copy_(local_var);
  return true;
}

std::vector<int64_t> strides_in(
    at::MemoryFormat format,
    c10::IntArrayRef sizes) {
  return format == at::MemoryFormat::ChannelsLast
             ? c10::get_channels_last_strides_2d(sizes)
         : format == at::MemoryFormat::ChannelsLast3d
             ? c10::get_channels_last_strides_3d(sizes)
             : contiguous_strides(as_span(sizes));
}

bool run_on_whole_batch(const CallArgs& call) {
  const Op& op = call.op;
  const c10::ArrayRef<c10::IValue> args = call.all();
  const at::Tensor input = call.tensor("input");
  if (!is_global(input) || !layout_of(input).mesh().one_memory()) {
    return false;
  }
  if (call.has("output_mask") && !call["output_mask"].toBoolList()[0]) {
    return false;  // the sums are not used yet, and stay pending
  }
  const Layout layout = layout_of(input);
  if (!is_cut_as_known(layout, input)) {
    return false;
  }
  const Layout channels = layout_of_channels(layout);
  const auto lanes = lanes_of_channels(layout, channels);
  std::vector<Stack> locals(lanes.size(), Stack(args.begin(), args.end()));
  std::vector<size_t> written;
  at::Tensor gradient;
  for (size_t i = 0; i < args.size(); ++i) {
    if (!is_there(args[i])) {
      continue;
    }
    const at::Tensor tensor = args[i].toTensor();
    if (!is_global(tensor)) {
      return false;
    }
    const OpSchema::Param& param = op.schema.params[i];
    const Held now = held(tensor);
    const bool is_batch = param.name == "input" || param.name == "grad_out";
    const bool is_cut = now.layout == (is_batch ? layout : channels);
    if (!is_cut && (is_batch || param.is_written ||
                    now.layout != Layout::replicated(layout.mesh()))) {
      return false;
    }
    if (param.name == "grad_out") {
      gradient = tensor;
    }
    if (param.is_written) {
      written.push_back(i);
    }
    for (size_t part = 0; part < lanes.size(); ++part) {
      if (is_batch) {
        locals[part][i] =
            whole_batch(now.shards, lanes[part], tensor.strides());
      } else if (is_cut) {
        locals[part][i] = now.shards[part].local();
      } else {
        const std::vector<int64_t> sizes = tensor.sizes().vec();
        const Range range = shard_range(
            channels, sizes, 0, channels.lanes().first_device[part]);
        locals[part][i] =
            slice_of(now.shards.any().local(), 0, range.begin, range.length);
      }
    }
  }
  for (const size_t i : written) {
    const Shards shards = begin_write(args[i].toTensor());
    for (size_t part = 0; part < lanes.size(); ++part) {
      locals[part][i] = shards[part].local();
    }
  }
  for (Stack& local : locals) {
    run_local(op, local);
  }
  for (const size_t i : written) {
    end_write(args[i].toTensor());
  }
  const std::vector<int64_t> strides =
      strides_in(format_of_batch_norm(input, gradient), input.sizes());
  Shards shards(layout.lanes().num);
  for (size_t part = 0; part < lanes.size(); ++part) {
    int64_t begin = 0;
    for (const int lane : lanes[part]) {
      const int64_t length =
          shard_range(
              layout, input.sizes().vec(), 0, layout.lanes().first_device[lane])
              .length;
      shards[lane] = in_order(
          slice_of(locals[part][0].toTensor(), 0, begin, length), strides);
      begin += length;
    }
  }
  call.give(make_global(
      layout, input.sizes(), strides, input.scalar_type(), std::move(shards)));
  for (size_t r = 1; r < locals[0].size(); ++r) {
    count_sum(layout, channels, input);
    if (!locals[0][r].toTensor().defined()) {
      call.stack.emplace_back(at::Tensor());
      continue;
    }
    Shards parts;
    for (const Stack& local : locals) {
      parts.push_back(local[r].toTensor());
    }
    const c10::ScalarType dtype = parts.any().scalar_type();
    call.stack.emplace_back(
        make_global(channels, {input.size(1)}, {1}, dtype, std::move(parts)));
  }
  return true;
}

}  // namespace torch_mesh::programs

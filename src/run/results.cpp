// results.cpp: from what the lanes yield to global tensors.

#include <algorithm>

#include <torch_mesh/error.h>

#include "comm/fold.h"
#include "run/frame.h"
#include "run/other_kinds.h"
#include "run/packing.h"
#include "shard/local_ops.h"
#include "shard/strides.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

using Kind = Instruction::Kind;
using Result = Frame::Result;

const LoweredPlan::Output& output_of(const Frame& frame, size_t o) {
  return frame.lowered.outputs[o];
}

void check_sizes(const Frame& frame, size_t o) {
  const Result& result = frame.results[o];
  const LoweredPlan::Output& output = output_of(frame, o);
  for (const int lane : frame.lanes.mine) {
    const Shard& shard = result.shards[lane];
    if (shard.sizes() != c10::IntArrayRef(output.local_sizes[lane])) {
      raise_size_mismatch(
          o,
          frame.context(),
          shard.sizes(),
          output.local_sizes[lane],
          frame.plan);
    }
  }
}

void fold(Frame& frame, size_t o) {
  Result& result = frame.results[o];
  check_sizes(frame, o);
  const Layout& layout = frame.plan.outputs[o].layout;
  result.shards = fold_lanes(
      frame.plan.mesh,
      frame.plan.executed_on,
      layout.sharded_axes(),
      layout.partial_axes(),
      std::move(result.shards));
}

void pick(Frame& frame, size_t o) {
  Result& result = frame.results[o];
  check_sizes(frame, o);
  Shards held;
  for (const int lane : output_of(frame, o).lane_of_shard) {
    held.push_back(result.shards[lane]);
  }
  result.shards = std::move(held);
}

void copy(Frame& frame, size_t o) {
  Result& result = frame.results[o];
  const Shard ran = result.shards.any();
  for (const int lane : frame.lanes.mine) {
    if (!result.shards[lane].defined()) {
      result.shards[lane] = ran.local().to(
          frame.device_of(lane),
          ran.scalar_type(),
          /*non_blocking=*/false,
          /*copy=*/true);
    }
  }
}

void cut(Frame& frame, size_t o) {
  Result& result = frame.results[o];
  const LoweredPlan::Output& output = output_of(frame, o);
  const std::vector<int64_t>& sizes = frame.plan.outputs[o].sizes;
  if (result.whole.sizes() != c10::IntArrayRef(sizes)) {
    raise_size_mismatch(
        o, frame.context(), result.whole.sizes(), sizes, frame.plan);
  }
  result.shards = output.cut_dim < 0 ? Shards{result.whole}
                                     : slices_of(result.whole, output);
}

Layout layout_of_result(const Frame& frame, size_t o) {
  return frame.plan.kind == Plan::Kind::kLocal
             ? frame.plan.outputs[o].layout
             : Layout::replicated(frame.plan.mesh);
}

void window(Frame& frame, size_t o, bool stands) {
  Result& result = frame.results[o];
  const int source = viewed_argument(frame.op, frame.call, result.alias);
  const at::Tensor& base = frame.tensor(source);
  const std::optional<Origin>& origin = frame.arguments[source].origin;
  const LoweredPlan::Window& window = frame.lowered.windows[o];
  // Slices of one view have its strides.
  if (!frame.is_joined && o < frame.lowered.outputs.size() &&
      frame.lowered.outputs[o].hides_order) {
    for (Shard& shard : result.shards) {
      shard = showing_order(shard.local(), window.strides);
    }
  }
  const Shard first = result.shards.any();
  result.tensor = make_view(
      base.storage(),
      layout_of_result(frame, o),
      window.sizes,
      window.strides,
      offset_in(base, first) + window.offset,
      first.scalar_type(),
      std::move(result.shards),
      origin ? *origin : meta_of(base).origin(),
      /*is_write_back=*/!stands || meta_of(base).is_write_back,
      base.is_inference());
}

void make(Frame& frame, size_t o) {
  Result& result = frame.results[o];
  check_is_strided(frame.op.schema.name, result.shards.any().local());
  const auto is_of_an_argument = [&frame](const Shard& shard) {
    return std::ranges::any_of(frame.arguments, [&](const auto& argument) {
      return lies_in(shard, *argument.shards);
    });
  };
  const Layout layout = layout_of_result(frame, o);
  if (layout.is_replicated() && leaves_gaps(result.shards, is_of_an_argument)) {
    result.tensor = make_with_gaps(layout, std::move(result.shards));
    return;
  }
  make_dense(result.shards, /*side_by_side=*/frame.is_joined);
  result.tensor = make_result(
      frame.lowered, o, layout, std::move(result.shards), frame.is_joined);
}

void run_on_result(Frame& frame, Kind kind, size_t o) {
  switch (kind) {
    case Kind::kFold:
      return fold(frame, o);
    case Kind::kPick:
      return pick(frame, o);
    case Kind::kCopy:
      return copy(frame, o);
    case Kind::kRound:
      return round_to(at::kHalf, frame.results[o].shards);
    case Kind::kCut:
      return cut(frame, o);
    case Kind::kAlias:
      return window(frame, o, /*stands=*/true);
    case Kind::kWindow:
      return window(frame, o, /*stands=*/false);
    case Kind::kMake:
      return make(frame, o);
    default:
      TORCH_MESH_ASSERT(false, name(kind), " is for arguments");
  }
}

}  // namespace

c10::Device Frame::device_of(int lane) const {
  return torch_device(plan.mesh.devices()[lanes.first_device[lane]]);
}

void take_results(Frame& frame) {
  const auto take = [&frame](const OpSchema::Param& returned, const auto& of) {
    Frame::Result& result = frame.results.emplace_back();
    result.alias = returned.alias;
    if (frame.is_joined) {
      result.whole = of(frame.local[0]);
      result.is_new = result.whole.defined();
      return;
    }
    result.shards = Shards(frame.lanes.num);
    for (size_t lane = 0; lane < frame.local.size(); ++lane) {
      if (!frame.local[lane].empty()) {
        result.shards[lane] = of(frame.local[lane]);
        result.is_new |= result.shards[lane].defined();
      }
    }
  };
  for (size_t r = 0; r < frame.op.schema.returns.size(); ++r) {
    const OpSchema::Param& returned = frame.op.schema.returns[r];
    if (returned.is_written) {
      frame.results.emplace_back().tensor =
          frame.args[frame.op.written_param(returned.alias)].toTensor();
    } else if (returned.is_tensor) {
      take(returned, [r](const Stack& local) { return local[r].toTensor(); });
    } else if (returned.is_tensor_list) {
      const size_t size = frame.first_stack()[r].toListRef().size();
      for (size_t e = 0; e < size; ++e) {
        take(returned, [r, e](const Stack& local) {
          return local[r].toListRef()[e].toTensor();
        });
      }
    }
  }
}

void run_on_results(Frame& frame, const Instruction& instruction) {
  const auto run = [&](size_t o) {
    if (frame.results[o].is_new) {
      run_on_result(frame, instruction.kind, o);
    }
  };
  for (const int slot : instruction.slots) {
    run(static_cast<size_t>(slot));
  }
  for (size_t o = 0; instruction.slots.empty() && o < frame.results.size();
       ++o) {
    run(o);
  }
}

void give_results(Frame& frame) {
  c10::SmallVector<c10::IValue, 3> given;
  size_t o = 0;
  for (size_t r = 0; r < frame.op.schema.returns.size(); ++r) {
    const OpSchema::Param& returned = frame.op.schema.returns[r];
    const c10::IValue& local = frame.first_stack()[r];
    if (returned.is_tensor_list && !returned.is_written) {
      c10::List<at::Tensor> list;
      for (size_t e = local.toListRef().size(); e-- > 0;) {
        list.push_back(std::move(frame.results[o++].tensor));
      }
      given.emplace_back(std::move(list));
    } else if (returned.is_written || returned.is_tensor) {
      given.emplace_back(std::move(frame.results[o++].tensor));
    } else {
      given.push_back(local);
    }
  }
  frame.stack.resize(frame.base);
  for (c10::IValue& value : given) {
    frame.stack.push_back(std::move(value));
  }
}

}  // namespace torch_mesh

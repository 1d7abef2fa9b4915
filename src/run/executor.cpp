// executor.cpp: one instruction after the other, on the lanes that are here.

#include "run/executor.h"

#include <algorithm>
#include <atomic>

#include <ATen/OpMathType.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>

#include <torch_mesh/error.h>

#include "comm/run_steps.h"
#include "lower/lower.h"
#include "run/arguments.h"
#include "run/destinations.h"
#include "run/frame.h"
#include "run/local_kernel.h"
#include "run/overlaps.h"
#include "run/packing.h"
#include "run/run_lanes.h"
#include "run/stand_ins.h"
#include "shard/joined.h"
#include "tensor/global_tensor.h"
#include "tensor/keep_sum.h"
#include "tensor/pending_sums.h"
#include "tensor/window_value.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

using Kind = Instruction::Kind;

// --- arguments ---------------------------------------------------------------

void reduce(const Frame& frame, const std::vector<int>& slots) {
  c10::SmallVector<const at::Tensor*, 4> pending;
  c10::SmallVector<AxisMask, 4> axes;
  for (const int slot : slots) {
    const Redistribution& moves = frame.moves(slot);
    pending.push_back(&frame.tensor(slot));
    axes.push_back(moves.from.partial_axes() & ~moves.to.partial_axes());
  }
  reduce_pending(pending, axes);
}

// A plain tensor, or one of another mesh, counts as replicated. What is written
// to a copy on each device is written back once.
void spread(Frame& frame, int slot) {
  const CallTensors::Entry& entry = frame.call.entries[slot];
  Frame::Argument& argument = frame.arguments[slot];
  argument.moved = on_each(
      frame.plan.mesh,
      entry.is_global ? read(*entry.tensor).any().local() : *entry.tensor,
      entry.is_written);
  argument.shards = &argument.moved;
}

void open(Frame& frame, int slot) {
  Frame::Argument& argument = frame.arguments[slot];
  argument.generation =
      MeshStorage::of(frame.tensor(slot))->memory_generation.load();
  argument.moved = frame.op.overwrites ? begin_overwrite(frame.tensor(slot))
                                       : begin_write(frame.tensor(slot));
  argument.shards = &argument.moved;
}

void move(Frame& frame, int slot, bool forms) {
  const CallTensors::Entry& entry = frame.call.entries[slot];
  const Redistribution& moves = frame.moves(slot);
  Frame::Argument& argument = frame.arguments[slot];
  if (argument.shards == &argument.moved) {  // spread before
    argument.moved = run_redistribution(moves, argument.moved);
    return;
  }
  const Held parts = entry.parts ? *entry.parts : held_memory(*entry.tensor);
  TORCH_MESH_ASSERT(
      parts.layout == moves.from,
      "argument ",
      slot,
      " of ",
      frame.context(),
      " has another layout than when the call began");
  argument.generation = parts.memory_generation;
  argument.moved = run_redistribution(moves, parts.shards);
  argument.shards = &argument.moved;
  if (forms) {
    argument.sum = argument.moved;
  }
}

void keep_order(Frame& frame, int slot) {
  const at::Tensor& tensor = frame.tensor(slot);
  Shards& moved = frame.arguments[slot].moved;
  moved = dense_as(
      tensor,
      frame.op.needs_dense || frame.op.is_view,
      frame.lowered.joins && frame.lowered.inputs[slot].cut_dim == 0,
      std::move(moved));
  if (frame.call.entries[slot].is_global) {
    moved = with_bits_of(tensor, std::move(moved));
  }
}

void take(Frame& frame, int slot) {
  const CallTensors::Entry& entry = frame.call.entries[slot];
  const at::Tensor& tensor = *entry.tensor;
  const Redistribution& moves = frame.moves(slot);
  Frame::Argument& argument = frame.arguments[slot];
  argument.shards = &argument.moved;
  if (moves.steps.empty() && entry.parts) {
    argument.generation = entry.parts->memory_generation;
    argument.moved = with_bits_of(tensor, entry.parts->shards);
    return;
  }
  argument.generation = MeshStorage::of(tensor)->memory_generation.load();
  if (const Shards* settled = settled_shards(tensor);
      settled && meta_of(tensor).layout == moves.to) {
    argument.shards = settled;
    return;
  }
  Held now = held_memory(tensor);
  if (now.layout == moves.to) {
    argument.generation = now.memory_generation;
    argument.moved = with_bits_of(tensor, std::move(now.shards));
    return;
  }
  // Another thread has formed the sum in a layout of its own.
  argument.shards = nullptr;
  move(frame, slot, /*forms=*/false);
  own(argument.moved);
  keep_order(frame, slot);
}

void keep(Frame& frame, int slot) {
  Frame::Argument& argument = frame.arguments[slot];
  keep_sum(
      frame.tensor(slot),
      argument.generation,
      frame.moves(slot).to,
      std::move(argument.sum));
}

// Parts of a sum are formed in a wider type.
void widen(Frame& frame, int slot) {
  Frame::Argument& argument = frame.arguments[slot];
  Shards wide = *argument.shards;
  for (Shard& shard : wide) {
    shard = shard.local().to(at::toOpMathType(shard.scalar_type()));
  }
  argument.moved = std::move(wide);
  argument.shards = &argument.moved;
}

// Whether the shards of all arguments lie side by side.
bool join(Frame& frame) {
  if (!frame.lowered.joins_on_teams && may_use_team()) {
    return false;
  }
  for (size_t i = 0; i < frame.arguments.size(); ++i) {
    std::optional<at::Tensor> whole = join_shards(
        *frame.arguments[i].shards, frame.lowered.inputs[i].cut_dim);
    if (!whole) {
      return false;
    }
    frame.arguments[i].whole = std::move(*whole);
  }
  return true;
}

// --- the local op ------------------------------------------------------------

at::Tensor local_tensor(const Frame& frame, size_t i, int lane) {
  const Frame::Argument& argument = frame.arguments[i];
  if (frame.is_joined) {
    return argument.whole;
  }
  const LoweredPlan::Input& input = frame.lowered.inputs[i];
  const int shard = shard_of_lane(input, lane);
  TORCH_MESH_ASSERT(
      shard < static_cast<int>(argument.shards->size()),
      "argument ",
      i,
      " of ",
      frame.context(),
      " has ",
      argument.shards->size(),
      " shards, its plan more");
  const at::Tensor& tensor = (*argument.shards)[shard].local();
  if (!reads_zero(input, lane)) {
    return tensor;
  }
  return argument.zeros.empty()
             ? at::full({}, -0.0, tensor.options()).expand_as(tensor)
             : argument.zeros[lane];
}

void build_stack(const Frame& frame, Stack& local, int lane) {
  const Op& op = frame.op;
  push_arguments(
      op,
      frame.args,
      frame.device_of(lane),
      local,
      [&](const at::Tensor&, size_t, size_t n) {
        return local_tensor(frame, n, lane);
      });
  if (frame.call.any_written && op.checks_overlap) {
    unite_places(op, local);
  }
  if (frame.is_joined) {
    return;
  }
  const size_t begin = local.size() - frame.args.size();
  const int dtype = op.schema.param("dtype");
  if (frame.lowered.widens && dtype >= 0 && local[begin + dtype].isInt()) {
    local[begin + dtype] =
        at::toOpMathType(local[begin + dtype].toScalarType());
  }
  for (const Plan::LocalArg& arg : frame.plan.local_args) {
    const std::vector<int64_t>& values = arg.values[lane];
    c10::IValue& value = local[begin + arg.arg];
    if (value.isInt()) {
      value = values[0];
    } else {
      value = c10::IValue(values);
    }
  }
}

// Whether the op failed before it wrote anything, as for a wrong dtype.
bool failed_early(const Frame& frame, const std::string& error) {
  Stack local;
  build_stack(frame, local, frame.is_joined ? 0 : frame.lanes.mine[0]);
  return fails_on_all_values(frame.op, local, error);
}

// Some shards may have been written and others not.
void break_destinations(
    const Frame& frame,
    const Instruction& instruction,
    const std::string& error) {
  for (const int slot : instruction.slots) {
    mark_broken(frame.tensor(slot), error);
  }
}

void call(Frame& frame, const Instruction& instruction) {
  frame.is_joined = instruction.kind == Kind::kCallJoined;
  const std::vector<int>& mine = frame.lanes.mine;
  const size_t num_lanes =
      instruction.kind == Kind::kCallLanes ? mine.size() : 1;
  frame.local.resize(frame.is_joined ? 1 : frame.lanes.num);
  std::atomic<int> num_done{0};
  try {
    run_lanes(
        static_cast<int>(num_lanes),
        frame.lowered.in_parallel && !frame.op.is_python,
        [&](int i) {
          const int lane = frame.is_joined ? 0 : mine[i];
          Stack& local = frame.local[lane];
          local.reserve(frame.args.size());
          build_stack(frame, local, lane);
          run_local(frame.op, local);
          ++num_done;
        });
  } catch (c10::Error& error) {
    const bool may_have_written =
        !instruction.slots.empty() &&
        (num_done > 0 || !failed_early(frame, error.msg()));
    error.add_context(frame.context());
    if (may_have_written) {
      break_destinations(frame, instruction, error.what_without_backtrace());
    }
    throw;
  } catch (const std::exception& error) {
    const std::string text = error.what();
    break_destinations(
        frame,
        instruction,
        text.empty() ? "of Python, " + frame.context() : text);
    throw;
  }
  take_results(frame);
}

// --- destinations ------------------------------------------------------------

void make_zeros(Frame& frame, int slot) {
  Frame::Argument& argument = frame.arguments[slot];
  argument.zeros = added_destinations(
      frame.lowered.inputs[slot], *argument.shards, frame.lanes.num);
}

void add_zeros(Frame& frame, int slot) {
  const Frame::Argument& argument = frame.arguments[slot];
  sum_destinations(
      frame.lowered.inputs[slot], argument.zeros, *argument.shards);
}

void end_writing(Frame& frame, int slot, bool stands) {
  const at::Tensor& tensor = frame.tensor(slot);
  const Shards& shards = *frame.arguments[slot].shards;
  if (frame.plan.kind != Plan::Kind::kLocal &&
      shards.any().sizes() != tensor.sizes()) [[unlikely]] {
    take_size(tensor, shards, frame.plan.mesh);
  } else if (stands) {
    end_write(tensor);
  } else {
    reduce_pending(tensor, layout_of(tensor).partial_axes());
    write_value(tensor, shards.any().local());
  }
}

// --- the loop ----------------------------------------------------------------

void run_on_argument(Frame& frame, Kind kind, int slot) {
  switch (kind) {
    case Kind::kTake:
      return take(frame, slot);
    case Kind::kOpen:
      return open(frame, slot);
    case Kind::kSpread:
      return spread(frame, slot);
    case Kind::kMove:
      return move(frame, slot, /*forms=*/false);
    case Kind::kForm:
      return move(frame, slot, /*forms=*/true);
    case Kind::kOwn:
      return own(frame.arguments[slot].moved);
    case Kind::kDense:
      return keep_order(frame, slot);
    case Kind::kKeep:
      return keep(frame, slot);
    case Kind::kWiden:
      return widen(frame, slot);
    case Kind::kZeros:
      return make_zeros(frame, slot);
    case Kind::kAdd:
      return add_zeros(frame, slot);
    case Kind::kWrote:
      return end_writing(frame, slot, /*stands=*/true);
    case Kind::kWriteBack:
      return end_writing(frame, slot, /*stands=*/false);
    default:
      TORCH_MESH_ASSERT(false, name(kind), " is for results");
  }
}

void run(Frame& frame, const std::vector<Instruction>& instructions) {
  for (const Instruction& instruction : instructions) {
    switch (instruction.kind) {
      case Kind::kReduce:
        reduce(frame, instruction.slots);
        break;
      case Kind::kCallLanes:
      case Kind::kCallOnce:
      case Kind::kCallJoined:
        call(frame, instruction);
        break;
      default:
        if (is_of_results(instruction.kind)) {
          run_on_results(frame, instruction);
          break;
        }
        for (const int slot : instruction.slots) {
          run_on_argument(frame, instruction.kind, slot);
        }
    }
  }
}

}  // namespace

void execute(
    const Op& op,
    const LoweredPlan& plan,
    const CallTensors& tensors,
    Stack& stack) {
  Frame frame(op, plan, tensors, stack);
  Instructions anew;
  const Instructions& instructions = instructions_of(op, plan, tensors, anew);
  run(frame, instructions.bring);
  const bool joins = !instructions.joined.empty() && join(frame);
  const std::vector<Instruction>& behind =
      joins ? instructions.joined : instructions.lanes;
  if (is_explaining_instructions()) [[unlikely]] {
    explain_instructions(
        text_of(plan, instructions.bring) + text_of(plan, behind));
  }
  run(frame, behind);
  give_results(frame);
}

}  // namespace torch_mesh

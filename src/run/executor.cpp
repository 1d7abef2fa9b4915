// executor.cpp: one instruction after the other, on the lanes that are here.

#include "run/executor.h"

#include <algorithm>
#include <atomic>

#include <ATen/OpMathType.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>

#include <torch_mesh/error.h>

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
#include "tensor/pending_sums.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

using Kind = Instruction::Kind;

// --- arguments ---------------------------------------------------------------

// Parts of a sum are formed in a wider type.
void widen(Argument& argument) {
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
  const Argument& argument = frame.arguments[i];
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
  return argument.zeros.empty() ? no_part(tensor) : argument.zeros[lane];
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
  Argument& argument = frame.arguments[slot];
  argument.zeros = added_destinations(
      frame.lowered.inputs[slot], *argument.shards, frame.lanes.num);
}

void add_zeros(Frame& frame, int slot) {
  const Argument& argument = frame.arguments[slot];
  sum_destinations(
      frame.lowered.inputs[slot], argument.zeros, *argument.shards);
}

void end_writing(Frame& frame, int slot) {
  const at::Tensor& tensor = frame.tensor(slot);
  const Shards& shards = *frame.arguments[slot].shards;
  if (frame.plan.kind != Plan::Kind::kLocal &&
      shards.any().sizes() != tensor.sizes()) [[unlikely]] {
    take_size(tensor, shards, frame.plan.mesh);
  } else if (frame.arguments[slot].is_open) {
    end_write(tensor);
  } else {
    reduce_pending(tensor, layout_of(tensor).partial_axes());
    write_value(tensor, whole_value(frame.arguments[slot], frame.plan.mesh));
  }
}

// --- the loop ----------------------------------------------------------------

void run_on_argument(Frame& frame, Kind kind, int slot) {
  Argument& argument = frame.arguments[slot];
  switch (kind) {
    case Kind::kTake:
      return take(argument);
    case Kind::kOpen:
      return open(argument, frame.op.overwrites);
    case Kind::kSpread:
      return spread(argument, frame.plan.mesh);
    case Kind::kMove:
      return move(argument);
    case Kind::kForm:
      return form(argument);
    case Kind::kOwn:
      return own(argument.moved);
    case Kind::kDense:
      return keep_order(argument);
    case Kind::kKeep:
      return keep(argument);
    case Kind::kWiden:
      return widen(argument);
    case Kind::kZeros:
      return make_zeros(frame, slot);
    case Kind::kAdd:
      return add_zeros(frame, slot);
    case Kind::kWrote:
    case Kind::kWriteBack:
      return end_writing(frame, slot);
    default:
      TORCH_MESH_ASSERT(false, name(kind), " is for no argument of its own");
  }
}

void reduce(Frame& frame, const std::vector<int>& slots) {
  c10::SmallVector<Argument*, 4> arguments;
  for (const int slot : slots) {
    arguments.push_back(&frame.arguments[slot]);
  }
  reduce_together(arguments);
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

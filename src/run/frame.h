// frame.h: a call while its instructions run.

#pragma once

#include <string>
#include <vector>

#include "run/argument.h"
#include "run/call_tensors.h"
#include "run/op.h"
#include "shard/shard.h"

namespace torch_mesh {

struct Frame {
  // A returned tensor; lists are laid flat.
  struct Result {
    bool is_new = false;  // no destination, and not undefined
    int alias = -1;       // its alias set
    // Of the lanes; behind kFold, kPick or kCut those of its layout.
    Shards shards;
    at::Tensor whole;   // of joined shards
    at::Tensor tensor;  // for the caller
  };

  Frame(
      const Op& op,
      const LoweredPlan& lowered,
      const CallTensors& call,
      Stack& stack)
      : op(op),
        lowered(lowered),
        plan(lowered.plan),
        call(call),
        stack(stack),
        base(stack.size() - op.params.size()),
        args(stack.data() + base, op.params.size()),
        lanes(plan.mesh.lanes(plan.executed_on)),
        arguments(call.entries.size()) {
    const bool dense = op.needs_dense || op.is_view;
    for (size_t i = 0; i < call.entries.size(); ++i) {
      const CallTensors::Entry& entry = call.entries[i];
      Argument& argument = arguments[i];
      argument.tensor = entry.tensor;
      argument.moves = &plan.inputs[i].redistribution;
      argument.is_global = entry.is_global;
      argument.is_written = entry.is_written;
      if (entry.parts) {
        argument.parts = entry.parts;
      }
      argument.must_be_dense = dense;
      argument.joins = lowered.joins && lowered.inputs[i].cut_dim == 0;
    }
  }

  const at::Tensor& tensor(int slot) const {
    return *call.entries[slot].tensor;
  }
  // Results of the first lane that has run.
  const Stack& first_stack() const {
    return local[is_joined ? 0 : lanes.mine[0]];
  }
  c10::Device device_of(int lane) const;
  std::string context() const { return context_of(op, call, plan.mesh); }

  const Op& op;
  const LoweredPlan& lowered;
  const Plan& plan;
  const CallTensors& call;
  Stack& stack;
  const size_t base;
  const c10::ArrayRef<c10::IValue> args;
  const Lanes& lanes;
  c10::SmallVector<Argument, 4> arguments;
  bool is_joined = false;
  c10::SmallVector<Stack, 2> local;  // [lanes] results; empty: has not run
  c10::SmallVector<Result, 1> results;
};

// results.cpp: one instruction on results.
void run_on_results(Frame& frame, const Instruction& instruction);

// results.cpp: what the local op left, tensor by tensor; and the caller's
// stack of it, at the end.
void take_results(Frame& frame);
void give_results(Frame& frame);

}  // namespace torch_mesh

// recurrent_cells.cpp: one step of a recurrent layer, as loops in Python take.
//
// The arguments of the four ops, of which hx is one tensor or, for lstm_cell,
// two:
//   input  hx  w_ih  w_hh  b_ih?  b_hh?

#include <algorithm>
#include <string>
#include <utility>

#include <ATen/Functions.h>
#include <ATen/ops/gru_cell_native.h>
#include <ATen/ops/lstm_cell_native.h>
#include <ATen/ops/rnn_relu_cell_native.h>
#include <ATen/ops/rnn_tanh_cell_native.h>

#include <torch_mesh/tensor.h>

#include "program/local_program.h"
#include "program/programs.h"
#include "shard/local_ops.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;
using Tensors = LocalProgram::Tensors;

constexpr size_t kNumArgs = 6;
constexpr size_t kNumWeights = 2;  // and biases

struct Cell {
  c10::OperatorHandle handle;
  c10::KernelFunction composition;
  bool is_lstm;

  size_t num_states() const { return is_lstm ? 2 : 1; }
};

// The tensors of a call that are there, in the order of the arguments.
Tensors tensors_of(const Stack& args) {
  Tensors all;
  for (const c10::IValue& arg : args) {
    if (arg.isTensorList()) {
      for (const Tensor& state : arg.toTensorVector()) {
        all.push_back(state);
      }
    } else if (arg.isTensor() && arg.toTensor().defined()) {
      all.push_back(arg.toTensor());
    }
  }
  return all;
}

// A call of a cell with arguments that are there or not.
struct Call {
  const Cell& cell;
  bool has_b_ih;
  bool has_b_hh;

  Stack args_of(const Tensors& all) const {
    size_t next = 0;
    Stack args;
    args.reserve(kNumArgs);
    args.emplace_back(all[next++]);
    if (cell.is_lstm) {
      args.emplace_back(Tensors{all[next], all[next + 1]});
      next += 2;
    } else {
      args.emplace_back(all[next++]);
    }
    args.emplace_back(all[next++]);
    args.emplace_back(all[next++]);
    args.emplace_back(has_b_ih ? c10::IValue(all[next++]) : c10::IValue());
    args.emplace_back(has_b_hh ? c10::IValue(all[next++]) : c10::IValue());
    return args;
  }
  // The op as torch dispatches it.
  Tensors dispatched(const Tensors& all) const {
    Stack stack = args_of(all);
    cell.handle.callBoxed(stack);
    return tensors_of(stack);
  }
  // The op as torch composes it.
  Tensors composed(const Tensors& all) const {
    Stack stack = args_of(all);
    cell.composition.callBoxed(cell.handle, c10::DispatchKeySet(), &stack);
    return tensors_of(stack);
  }
};

// How a result lies: h of a gru is formed from the state that it replaces, and
// lies as that does.
std::vector<int64_t> order_of(const Cell& cell, const Tensor& state) {
  const bool follows = cell.handle.schema().name() == "aten::gru_cell";
  return follows && state.stride(0) != 0 && state.stride(0) < state.stride(1)
             ? std::vector<int64_t>{1, 0}
             : std::vector<int64_t>{0, 1};
}

std::shared_ptr<const LocalProgram> program_of(
    const Call& call,
    const Tensors& all) {
  auto program = std::make_shared<LocalProgram>();
  program->name = call.cell.handle.schema().name();
  program->local = [call](const Tensors& tensors) {
    return call.dispatched(tensors);
  };
  program->composed = [call](const Tensors& tensors) {
    return call.composed(tensors);
  };
  const size_t num_states = call.cell.num_states();
  program->batch_dims.assign(all.size(), LocalProgram::kNoBatch);
  std::fill_n(program->batch_dims.begin(), 1 + num_states, 0);
  program->results.assign(num_states, {0, order_of(call.cell, all[1])});
  program->kept = all[0].size(0) * all[2 + num_states].size(0);
  return program;
}

// Throws what plain torch says of arguments like these, if it refuses them.
void refuse_as_plain(const Call& call, const Tensors& all) {
  const LocalOps local;
  Tensors stand_ins;
  for (const Tensor& tensor : all) {
    stand_ins.push_back(
        at::zeros(tensor.sizes(), tensor.options().device(at::kCPU)));
  }
  call.dispatched(stand_ins);
}

Tensors run(const Call& call, Tensors all, bool differentiable) {
  const size_t num_batched = 1 + call.cell.num_states();
  const bool has_the_dims =
      all.size() >= num_batched + kNumWeights &&
      std::all_of(
          all.begin(),
          all.begin() + static_cast<ptrdiff_t>(num_batched + kNumWeights),
          [](const Tensor& tensor) {
            return tensor.defined() && tensor.dim() == 2;
          });
  if (!has_the_dims || !bring_to_mesh(all)) {
    return call.composed(all);
  }
  try {
    std::optional<Tensors> results =
        run_on_memories(program_of(call, all), all, differentiable);
    return results ? *std::move(results) : call.composed(all);
  } catch (const c10::Error&) {
    refuse_as_plain(call, all);
    throw;
  }
}

// `composition`: torch's, made of the ops that a cell is.
template <typename Function>
Cell cell_of(const CallArgs& args, Function* composition) {
  return {args.op.handle,
          c10::KernelFunction::makeFromUnboxedRuntimeFunction(composition),
          args.op.base_name == "aten::lstm_cell"};
}

bool run_cell(const CallArgs& args, const Cell& cell) {
  const Stack given = args.copy();
  const Call call{cell, args.is_there("b_ih"), args.is_there("b_hh")};
  Tensors results;
  if (cell.is_lstm && given[1].toTensorVector().size() != 2) {
    Stack refused = given;
    cell.composition.callBoxed(cell.handle, c10::DispatchKeySet(), &refused);
    results = tensors_of(refused);
  } else {
    results = run(call, tensors_of(given), args.under_autograd);
  }
  return args.give_list(std::move(results));
}

}  // namespace

bool gru_cell(const CallArgs& args) {
  static const Cell cell = cell_of(args, at::native::gru_cell);
  return run_cell(args, cell);
}

bool lstm_cell(const CallArgs& args) {
  static const Cell cell = cell_of(args, at::native::lstm_cell);
  return run_cell(args, cell);
}

bool rnn_relu_cell(const CallArgs& args) {
  static const Cell cell = cell_of(args, at::native::rnn_relu_cell);
  return run_cell(args, cell);
}

bool rnn_tanh_cell(const CallArgs& args) {
  static const Cell cell = cell_of(args, at::native::rnn_tanh_cell);
  return run_cell(args, cell);
}

}  // namespace torch_mesh::programs

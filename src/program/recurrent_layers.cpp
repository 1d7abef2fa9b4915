// recurrent_layers.cpp: which arguments have a batch, and what torch's CPU
// makes of them.
//
// The arguments of the ops on padded sequences (.input) and on packed ones
// (.data), of which hx is one tensor or, for lstm, two:
//   input                     params has_biases layers dropout train bidi first
//   data  batch_sizes  hx     params has_biases layers dropout train bidi
//
//   T steps   B batch   N packed rows   F features   L layers x directions

#include <string>

#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/gru_native.h>
#include <ATen/ops/lstm_native.h>
#include <ATen/ops/rnn_relu_native.h>
#include <ATen/ops/rnn_tanh_native.h>

#include <torch_mesh/tensor.h>

#include "program/local_program.h"
#include "program/programs.h"
#include "shard/local_ops.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;
using Tensors = LocalProgram::Tensors;

// An op of the eight: torch's composition of cells, and where arguments are.
struct Layer {
  c10::OperatorHandle handle;
  c10::KernelFunction composition;
  bool is_lstm;
  bool is_packed;

  size_t num_args() const { return handle.schema().arguments().size(); }
  size_t num_states() const { return is_lstm ? 2 : 1; }
  size_t hx() const { return is_packed ? 2 : 1; }
  size_t params() const { return hx() + 1; }
  size_t num_layers() const { return hx() + 3; }
  size_t dropout() const { return hx() + 4; }
  size_t train() const { return hx() + 5; }
  size_t bidirectional() const { return hx() + 6; }
  size_t batch_first() const { return hx() + 7; }  // not if packed
};

// The arguments of one call.
struct Call {
  const Layer& layer;
  Stack args;

  Tensors states() const {
    const c10::IValue& hx = args[layer.hx()];
    return hx.isTensor() ? Tensors{hx.toTensor()} : hx.toTensorVector();
  }
  Tensors params() const { return args[layer.params()].toTensorVector(); }
  int64_t num_layers() const { return args[layer.num_layers()].toInt(); }
  bool is_batch_first() const {
    return !layer.is_packed && args[layer.batch_first()].toBool();
  }

  // Input, states and parameters in one list.
  Tensors tensors() const {
    Tensors all{args[0].toTensor()};
    for (const Tensors& some : {states(), params()}) {
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }
  // This call, of other tensors.
  Call with(const Tensors& all) const {
    Call other = *this;
    const auto states_at = all.begin() + 1;
    const auto params_at =
        states_at + static_cast<ptrdiff_t>(layer.num_states());
    other.args[0] = all[0];
    other.set_states(Tensors(states_at, params_at));
    other.args[layer.params()] = Tensors(params_at, all.end());
    return other;
  }
  // This call without its tensors, for who outlives them.
  Call bare() const { return with(Tensors(1 + layer.num_states())); }
  void set_states(const Tensors& states) {
    if (layer.is_lstm) {
      args[layer.hx()] = states;
    } else {
      args[layer.hx()] = states[0];
    }
  }

  // The op as torch dispatches it.
  Tensors dispatched() const {
    return run([&](Stack& stack) { layer.handle.callBoxed(stack); });
  }
  // The op as torch composes it of cells.
  Tensors composed() const {
    return run([&](Stack& stack) {
      layer.composition.callBoxed(layer.handle, c10::DispatchKeySet(), &stack);
    });
  }

 private:
  template <typename Kernel>
  Tensors run(const Kernel& kernel) const {
    Stack stack = args;
    kernel(stack);
    Tensors results;
    for (const c10::IValue& result : stack) {
      results.push_back(result.toTensor());
    }
    return results;
  }
};

// On a CPU an lstm layer of float32 is one op, which autocast casts whole; on
// others it is made of cells.
bool is_cast_whole(const Call& call) {
  const Tensor input = call.args[0].toTensor();
  const Tensors states = call.states();
  return call.layer.is_lstm && !call.layer.is_packed &&
         at::autocast::is_autocast_enabled(c10::kPrivateUse1) &&
         is_global(input) &&
         layout_of(input).mesh().devices()[0].kind == DeviceKind::kCpu &&
         input.scalar_type() == at::kFloat && input.numel() != 0 &&
         states.size() == 2 && states[0].dim() == 3 && states[1].dim() == 3 &&
         states[0].size(2) == states[1].size(2);
}

Tensors composed(const Call& call) {
  if (!is_cast_whole(call)) {
    return call.composed();
  }
  const c10::ScalarType dtype =
      at::autocast::get_autocast_dtype(c10::kPrivateUse1);
  Tensors tensors = call.tensors();
  for (Tensor& tensor : tensors) {
    tensor = at::autocast::cached_cast(dtype, tensor, c10::kPrivateUse1);
  }
  return call.with(tensors).composed();
}

// How many gates the layer forms, for all steps and rows.
int64_t num_gates(const Call& call) {
  const Tensor input = call.args[0].toTensor();
  const int64_t features = input.size(-1);
  int64_t gates = 0;
  for (const Tensor& weight : call.params()) {
    // Of input and of state: each has a row for each gate.
    gates += weight.dim() == 2 ? weight.size(0) : 0;
  }
  return features == 0 ? 0 : input.numel() / features * (gates / 2);
}

std::shared_ptr<const LocalProgram> program_of(const Call& call) {
  auto program = std::make_shared<LocalProgram>();
  program->name = call.layer.handle.schema().name();
  program->local = [bare = call.bare()](const Tensors& tensors) {
    return bare.with(tensors).dispatched();
  };
  program->composed = [bare = call.bare()](const Tensors& tensors) {
    return composed(bare.with(tensors));
  };
  const size_t num_states = call.layer.num_states();
  program->batch_dims.assign(
      1 + num_states + call.params().size(), LocalProgram::kNoBatch);
  if (call.layer.is_packed) {
    // Rows of one sequence lie far apart: each memory has all of them.
    program->batch_dims[0] = LocalProgram::kGathered;
    program->results.push_back({LocalProgram::kNoBatch, {0, 1}});
  } else if (call.is_batch_first()) {
    program->batch_dims[0] = 0;
    program->results.push_back({0, {1, 0, 2}});
  } else {
    program->batch_dims[0] = 1;
    program->results.push_back({1, {0, 1, 2}});
  }
  for (size_t s = 0; s < num_states; ++s) {
    program->batch_dims[1 + s] =
        call.layer.is_packed ? LocalProgram::kGathered : 1;
    program->results.push_back(
        {call.layer.is_packed ? LocalProgram::kNoBatch : 1, {0, 1, 2}});
  }
  program->kept = num_gates(call);
  return program;
}

// Whether the arguments are such that only the batch may be cut.
bool has_the_dims(const Call& call) {
  const Tensors states = call.states();
  for (const Tensor& state : states) {
    if (!state.defined() || state.dim() != 3) {
      return false;
    }
  }
  const Tensor input = call.args[0].toTensor();
  return states.size() == call.layer.num_states() &&
         input.dim() == (call.layer.is_packed ? 2 : 3);
}

Tensors run(const Call& call, bool differentiable);

// Dropout between layers draws for the whole tensor (law 2), so each layer is a
// call of its own.
Tensors run_layer_by_layer(const Call& call, bool differentiable) {
  const int64_t num_layers = call.num_layers();
  const bool is_bidirectional = call.args[call.layer.bidirectional()].toBool();
  const int64_t directions = is_bidirectional ? 2 : 1;
  const double dropout = call.args[call.layer.dropout()].toDouble();
  const Tensors states = call.states();
  const Tensors params = call.params();
  const auto per_layer = static_cast<ptrdiff_t>(params.size()) / num_layers;
  const bool turns = call.is_batch_first();
  Tensor input = call.args[0].toTensor();
  if (turns) {
    input = input.transpose(0, 1);
  }
  std::vector<Tensors> last(states.size());
  for (int64_t l = 0; l < num_layers; ++l) {
    Call one = call;
    one.args[0] = input;
    one.args[call.layer.num_layers()] = 1;
    one.args[call.layer.dropout()] = 0.0;
    if (turns) {
      one.args[call.layer.batch_first()] = false;
    }
    Tensors own_states;
    for (const Tensor& state : states) {
      own_states.push_back(state.narrow(0, l * directions, directions));
    }
    one.set_states(own_states);
    one.args[call.layer.params()] = Tensors(
        params.begin() + l * per_layer, params.begin() + (l + 1) * per_layer);
    const Tensors results = run(one, differentiable);
    input = results[0];
    for (size_t s = 0; s < states.size(); ++s) {
      last[s].push_back(results[1 + s]);
    }
    if (l + 1 < num_layers) {
      input = at::dropout(input, dropout, /*train=*/true);
    }
  }
  Tensors results{turns ? input.transpose(0, 1) : input};
  for (const Tensors& of_layers : last) {
    results.push_back(at::cat(of_layers, 0));
  }
  return results;
}

// Throws what plain torch says of arguments like these, if it refuses them: the
// parts have other sizes, and cells check in another order.
void refuse_as_plain(const Call& call) {
  const LocalOps local;
  Tensors stand_ins;
  for (const Tensor& tensor : call.tensors()) {
    stand_ins.push_back(
        at::zeros(tensor.sizes(), tensor.options().device(at::kCPU)));
  }
  call.with(stand_ins).dispatched();
}

bool drops_between_layers(const Call& call) {
  const int64_t num_layers = call.num_layers();
  return num_layers > 1 && call.args[call.layer.train()].toBool() &&
         call.args[call.layer.dropout()].toDouble() != 0 &&
         call.params().size() % num_layers == 0;
}

Tensors run(const Call& given, bool differentiable) {
  Tensors tensors = given.tensors();
  if (!bring_to_mesh(tensors)) {
    return given.composed();
  }
  const Call call = given.with(tensors);
  try {
    if (!has_the_dims(call)) {
      return composed(call);
    }
    if (drops_between_layers(call)) {
      return run_layer_by_layer(call, differentiable);
    }
    std::optional<Tensors> results =
        run_on_memories(program_of(call), tensors, differentiable);
    return results ? *std::move(results) : composed(call);
  } catch (const c10::Error&) {
    refuse_as_plain(call);
    throw;
  }
}

using Padded = std::tuple<Tensor, Tensor>(
    const Tensor&,
    const Tensor&,
    at::TensorList,
    bool,
    int64_t,
    double,
    bool,
    bool,
    bool);
using Packed = std::tuple<Tensor, Tensor>(
    const Tensor&,
    const Tensor&,
    const Tensor&,
    at::TensorList,
    bool,
    int64_t,
    double,
    bool,
    bool);
using PaddedLstm = std::tuple<Tensor, Tensor, Tensor>(
    const Tensor&,
    at::TensorList,
    at::TensorList,
    bool,
    int64_t,
    double,
    bool,
    bool,
    bool);
using PackedLstm = std::tuple<Tensor, Tensor, Tensor>(
    const Tensor&,
    const Tensor&,
    at::TensorList,
    at::TensorList,
    bool,
    int64_t,
    double,
    bool,
    bool);

// `composition`: torch's, made of cells.
template <typename Signature>
Layer layer_of(const CallArgs& args, Signature* composition) {
  return {args.op.handle,
          c10::KernelFunction::makeFromUnboxedRuntimeFunction(composition),
          args.op.base_name == "aten::lstm",
          args.has("batch_sizes")};
}

bool run_layer(const CallArgs& args, const Layer& layer) {
  return args.give_list(run(Call{layer, args.copy()}, args.under_autograd));
}

}  // namespace

bool gru(const CallArgs& args) {
  static const Layer layer = layer_of<Padded>(args, at::native::gru);
  return run_layer(args, layer);
}

bool gru_packed(const CallArgs& args) {
  static const Layer layer = layer_of<Packed>(args, at::native::gru);
  return run_layer(args, layer);
}

bool lstm(const CallArgs& args) {
  static const Layer layer = layer_of<PaddedLstm>(args, at::native::lstm);
  return run_layer(args, layer);
}

bool lstm_packed(const CallArgs& args) {
  static const Layer layer = layer_of<PackedLstm>(args, at::native::lstm);
  return run_layer(args, layer);
}

bool rnn_relu(const CallArgs& args) {
  static const Layer layer = layer_of<Padded>(args, at::native::rnn_relu);
  return run_layer(args, layer);
}

bool rnn_relu_packed(const CallArgs& args) {
  static const Layer layer = layer_of<Packed>(args, at::native::rnn_relu);
  return run_layer(args, layer);
}

bool rnn_tanh(const CallArgs& args) {
  static const Layer layer = layer_of<Padded>(args, at::native::rnn_tanh);
  return run_layer(args, layer);
}

bool rnn_tanh_packed(const CallArgs& args) {
  static const Layer layer = layer_of<Packed>(args, at::native::rnn_tanh);
  return run_layer(args, layer);
}

}  // namespace torch_mesh::programs

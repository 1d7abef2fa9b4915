// execution.cpp: localise the arguments, run the lanes, pack the results.

#include "run/execution.h"

#include <algorithm>
#include <atomic>

#include <ATen/OpMathType.h>
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>

#include <torch_mesh/error.h>

#include "comm/fold.h"
#include "comm/run_steps.h"
#include "run/arguments.h"
#include "run/destinations.h"
#include "run/local_kernel.h"
#include "run/other_kinds.h"
#include "run/overlaps.h"
#include "run/packing.h"
#include "run/run_lanes.h"
#include "run/stand_ins.h"
#include "shard/joined.h"
#include "shard/local_ops.h"
#include "shard/strides.h"
#include "tensor/global_tensor.h"
#include "tensor/keep_sum.h"
#include "tensor/pending_sums.h"
#include "tensor/window_value.h"

namespace torch_mesh {
namespace {

class Execution {
 public:
  Execution(
      const Op& op,
      const PreparedPlan& prepared,
      const CallTensors& tensors,
      Stack& stack)
      : op_(op),
        prepared_(prepared),
        plan_(prepared.plan),
        call_(tensors),
        tensors_(tensors.entries),
        stack_(stack),
        base_(stack.size() - op.params.size()),
        args_(stack.data() + base_, op.params.size()),
        lanes_(plan_.mesh.lanes(plan_.executed_on)) {}

  void run() {
    reduce_sums();
    inputs_.resize(tensors_.size());
    for (size_t i = 0; i < tensors_.size(); ++i) {
      localise(i);
    }
    keep_sums();
    is_joined_ = join_inputs();
    add_destinations();
    run_all_lanes();
    finish_writes();
    pack();
  }

 private:
  // A tensor argument as it stands for the plan.
  struct Input {
    const Shards* shards = nullptr;  // the tensor's own, or `moved`
    Shards moved;
    Shards sum;                     // formed by moving; empty: none
    uint32_t generation = 0;        // of the storage, before reading
    at::Tensor whole;               // of the shards, if the lanes are joined
    std::vector<at::Tensor> added;  // [lanes] run/destinations.h
    bool is_copy = false;           // of what is to be written
  };

  // Pending sums that are read whole are reduced first, for all, in buckets.
  void reduce_sums() {
    c10::SmallVector<const at::Tensor*, 4> pending;
    c10::SmallVector<AxisMask, 4> axes;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (prepared_.inputs[i].reduces_only && tensors_[i].is_global &&
          !stays_partial_elsewhere(i)) {
        const Redistribution& moves = plan_.inputs[i].redistribution;
        pending.push_back(tensors_[i].tensor);
        axes.push_back(moves.from.partial_axes() & ~moves.to.partial_axes());
      }
    }
    if (!pending.empty()) {
      reduce_pending(pending, axes);
    }
  }

  // Whether another argument reads the same storage as a sum: x * x.
  bool stays_partial_elsewhere(size_t i) const {
    const MeshStorage* storage = MeshStorage::of(*tensors_[i].tensor);
    for (size_t j = 0; j < tensors_.size(); ++j) {
      if (j != i && tensors_[j].is_global &&
          MeshStorage::of(*tensors_[j].tensor) == storage &&
          plan_.inputs[j].redistribution.to.has_partial()) {
        return true;
      }
    }
    return false;
  }

  bool is_alone_in_storage(size_t i) const {
    const auto shares = [&](const CallTensors::Entry& other) {
      return &other != &tensors_[i] && other.is_global &&
             other.tensor->is_alias_of(*tensors_[i].tensor);
    };
    return !tensors_[i].is_written && std::ranges::none_of(tensors_, shares);
  }

  bool stands_as_planned(size_t i) const {
    return !prepared_.inputs[i].moves ||
           (prepared_.inputs[i].reduces_only && tensors_[i].is_global &&
            !stays_partial_elsewhere(i));
  }

  void localise(size_t i) {
    const CallTensors::Entry& entry = tensors_[i];
    const at::Tensor& tensor = *entry.tensor;
    const Redistribution& moves = plan_.inputs[i].redistribution;
    Input& input = inputs_[i];
    input.shards = &input.moved;
    if (entry.is_global) {
      input.generation = MeshStorage::of(tensor)->memory_generation.load();
    }
    if (!entry.is_global || layout_of(tensor).mesh() != plan_.mesh) {
      input.moved =
          spread(i, entry.is_global ? read(tensor).any().local() : tensor);
      input.is_copy = entry.is_written;
      return;
    }
    const bool stands = stands_as_planned(i);
    if (stands && entry.is_written) {
      input.moved =
          op_.overwrites ? begin_overwrite(tensor) : begin_write(tensor);
      return;
    }
    if (stands && moves.steps.empty() && entry.parts) {
      input.generation = entry.parts->memory_generation;
      input.moved = with_bits_of(tensor, entry.parts->shards);
      return;
    }
    if (stands) {
      if (const Shards* settled = settled_shards(tensor);
          settled && meta_of(tensor).layout == moves.to) {
        input.shards = settled;
        return;
      }
      Held after = held_memory(tensor);
      if (after.layout == moves.to) {
        input.generation = after.memory_generation;
        input.moved = with_bits_of(tensor, std::move(after.shards));
        return;
      }
      // Another thread has formed the sum in a layout of its own.
    }
    const Held parts = entry.parts ? *entry.parts : held_memory(tensor);
    TORCH_MESH_ASSERT(
        parts.layout == moves.from,
        "argument ",
        i,
        " of ",
        context(),
        " has another layout than when the call began");
    input.generation = parts.memory_generation;
    Shards there = run_redistribution(moves, parts.shards);
    if (moves.from.has_partial() && !moves.to.has_partial() &&
        is_alone_in_storage(i)) {
      input.sum = there;
    }
    if (op_.is_view || (call_.any_written && !is_alone_in_storage(i))) {
      // Where it lies somebody writes, or will.
      own(there);
    }
    input.moved = with_bits_of(tensor, dense(i, tensor, std::move(there)));
  }

  // Behind all reads: what a reader has summed stays summed.
  void keep_sums() {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (!inputs_[i].sum.empty()) {
        keep_sum(
            *tensors_[i].tensor,
            inputs_[i].generation,
            plan_.inputs[i].redistribution.to,
            std::move(inputs_[i].sum));
      }
    }
  }

  Shards dense(size_t i, const at::Tensor& tensor, Shards shards) const {
    return dense_as(
        tensor,
        op_.needs_dense || op_.is_view,
        prepared_.joins && prepared_.inputs[i].cut_dim == 0,
        std::move(shards));
  }

  // A plain tensor, or one on no mesh, counts as replicated. What is written to
  // a copy on each device is written back once.
  Shards spread(size_t i, const at::Tensor& tensor) const {
    const Redistribution& moves = plan_.inputs[i].redistribution;
    const Shards shards = on_each(plan_.mesh, tensor, tensors_[i].is_written);
    return prepared_.inputs[i].moves
               ? dense(i, tensor, run_redistribution(moves, shards))
               : shards;
  }

  // One local op in place of one for each lane, where all arguments lie so.
  bool join_inputs() {
    if (!prepared_.joins || op_.is_python ||
        (!prepared_.joins_on_teams && may_use_team())) {
      return false;
    }
    for (size_t i = 0; i < inputs_.size(); ++i) {
      std::optional<at::Tensor> whole =
          join_shards(*inputs_[i].shards, prepared_.inputs[i].cut_dim);
      if (!whole) {
        return false;
      }
      inputs_[i].whole = std::move(*whole);
    }
    return true;
  }

  // Before the lanes run: they may do so at once.
  void add_destinations() {
    for (size_t i = 0; i < tensors_.size() && !is_joined_; ++i) {
      if (tensors_[i].is_written && !prepared_.inputs[i].reads_zero.empty()) {
        inputs_[i].added = added_destinations(
            prepared_.inputs[i], *inputs_[i].shards, lanes_.num);
      }
    }
  }

  at::Tensor local_tensor(size_t i, int lane) const {
    if (is_joined_) {
      return inputs_[i].whole;
    }
    const Shards& shards = *inputs_[i].shards;
    const int shard = shard_of_lane(prepared_.inputs[i], lane);
    TORCH_MESH_ASSERT(
        shard < static_cast<int>(shards.size()),
        "argument ",
        i,
        " of ",
        context(),
        " has ",
        shards.size(),
        " shards, its plan more");
    const at::Tensor& tensor = shards[shard].local();
    if (reads_zero(prepared_.inputs[i], lane)) {
      return inputs_[i].added.empty()
                 ? at::full({}, -0.0, tensor.options()).expand_as(tensor)
                 : inputs_[i].added[lane];
    }
    return tensor;
  }

  c10::Device device_of(int lane) const {
    return torch_device(plan_.mesh.devices()[lanes_.first_device[lane]]);
  }

  // Lanes that form parts of a sum do so in a wider type. One local op in place
  // of all forms the sum itself.
  at::Tensor widened(const at::Tensor& local) const {
    return prepared_.rounds_to && !is_joined_
               ? local.to(at::toOpMathType(local.scalar_type()))
               : local;
  }

  Shards rounded(Shards shards) const {
    if (prepared_.rounds_to) {
      round_to(*prepared_.rounds_to, shards);
    }
    return shards;
  }

  void build_stack(Stack& local, int lane) const {
    push_arguments(
        op_,
        args_,
        device_of(lane),
        local,
        [&](const at::Tensor&, size_t, size_t n) {
          return widened(local_tensor(n, lane));
        });
    if (call_.any_written && op_.checks_overlap) {
      unite_places(op_, local);
    }
    if (is_joined_) {
      return;
    }
    const int dtype = op_.schema.param("dtype");
    if (prepared_.rounds_to && dtype >= 0) {
      c10::IValue& value = local[local.size() - args_.size() + dtype];
      if (value.isInt()) {
        value = at::toOpMathType(value.toScalarType());
      }
    }
    for (const Plan::LocalArg& arg : plan_.local_args) {
      const std::vector<int64_t>& values = arg.values[lane];
      c10::IValue& value = local[local.size() - args_.size() + arg.arg];
      if (value.isInt()) {
        value = values[0];
      } else {
        value = c10::IValue(values);
      }
    }
  }

  void run_all_lanes() {
    // Random numbers are drawn once, for all memories (law 2).
    const bool once = op_.is_random && plan_.kind == Plan::Kind::kReplicate;
    const std::vector<int>& mine = lanes_.mine;
    const size_t num_lanes = once || is_joined_ ? 1 : mine.size();
    results_.resize(is_joined_ ? 1 : lanes_.num);
    first_ = is_joined_ ? 0 : mine[0];
    std::atomic<int> num_done{0};
    try {
      run_lanes(num_lanes, prepared_.in_parallel && !op_.is_python, [&](int i) {
        const int lane = is_joined_ ? 0 : mine[i];
        Stack& local = results_[lane];
        local.reserve(args_.size());
        build_stack(local, lane);
        run_local(op_, local);
        ++num_done;
      });
    } catch (c10::Error& error) {
      const bool may_have_written = num_done > 0 || !failed_early(error.msg());
      error.add_context(context());
      if (may_have_written) {
        break_destinations(error.what_without_backtrace());
      }
      throw;
    } catch (const std::exception& error) {
      const std::string text = error.what();
      break_destinations(text.empty() ? "of Python, " + context() : text);
      throw;
    }
  }

  std::string context() const { return context_of(op_, call_, plan_.mesh); }

  // Whether lanes write into shards of their own in this argument's memory. A
  // single local op leaves its destination as the plain op leaves it.
  bool is_written_by_lanes(size_t i) const {
    return lanes_.num > 1 && !is_joined_ && tensors_[i].is_written &&
           tensors_[i].is_global && stands_as_planned(i) && !inputs_[i].is_copy;
  }

  // Whether the op failed before it wrote anything, as for a wrong dtype.
  bool failed_early(const std::string& error) const {
    size_t i = 0;
    while (i < tensors_.size() && !is_written_by_lanes(i)) {
      ++i;
    }
    if (i == tensors_.size()) {
      return true;
    }
    Stack local;
    build_stack(local, first_);
    return fails_on_all_values(op_, local, error);
  }

  // Some shards may have been written and others not.
  void break_destinations(const std::string& error) {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (is_written_by_lanes(i)) {
        mark_broken(*tensors_[i].tensor, error);
      }
    }
  }

  void finish_writes() {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      if (!tensors_[i].is_written || !tensors_[i].is_global) {
        continue;
      }
      const at::Tensor& tensor = *tensors_[i].tensor;
      sum_destinations(
          prepared_.inputs[i], inputs_[i].added, *inputs_[i].shards);
      if (plan_.kind != Plan::Kind::kLocal &&
          inputs_[i].shards->any().sizes() != tensor.sizes()) [[unlikely]] {
        take_size(tensor, *inputs_[i].shards, plan_.mesh);
      } else if (stands_as_planned(i) && !inputs_[i].is_copy) {
        end_write(tensor);
      } else {
        reduce_pending(tensor, layout_of(tensor).partial_axes());
        write_value(tensor, inputs_[i].shards->any().local());
      }
    }
  }

  void pack() {
    c10::SmallVector<c10::IValue, 3> packed;
    size_t output = 0;
    for (size_t r = 0; r < op_.schema.returns.size(); ++r) {
      const OpSchema::Param& returned = op_.schema.returns[r];
      const c10::IValue& first = results_[first_][r];
      if (returned.is_written) {
        packed.push_back(args_[op_.written_param(returned.alias)]);
        ++output;
      } else if (returned.is_tensor) {
        packed.emplace_back(pack_tensor(
            output++,
            [&](int lane) { return results_[lane][r].toTensor(); },
            returned.alias));
      } else if (returned.is_tensor_list) {
        c10::List<at::Tensor> list;
        const size_t size = first.toListRef().size();
        for (size_t e = 0; e < size; ++e) {
          list.push_back(pack_tensor(
              output++,
              [&](int lane) {
                return results_[lane][r].toListRef()[e].toTensor();
              },
              returned.alias));
        }
        packed.emplace_back(std::move(list));
      } else {
        packed.push_back(first);
      }
    }
    stack_.resize(base_);
    for (c10::IValue& value : packed) {
      stack_.push_back(std::move(value));
    }
  }

  template <typename Result>
  at::Tensor pack_tensor(size_t o, const Result& result, int alias) {
    const at::Tensor first = result(first_);
    if (!first.defined()) {
      return first;
    }
    Shards shards = shards_of_output(o, result);
    const Layout layout = plan_.kind == Plan::Kind::kLocal
                              ? plan_.outputs[o].layout
                              : Layout::replicated(plan_.mesh);
    if (op_.is_view && alias >= 0) {
      for (size_t i = 0; i < tensors_.size(); ++i) {
        if (op_.schema.params[tensors_[i].arg].alias == alias &&
            tensors_[i].is_global) {
          return pack_view(o, i, layout, first, std::move(shards));
        }
      }
    }
    return pack_new(o, layout, std::move(shards));
  }

  template <typename Result>
  Shards shards_of_output(size_t o, const Result& result) {
    Shards shards;
    if (plan_.kind != Plan::Kind::kLocal) {
      shards = Shards(lanes_.num);
      for (const int lane : lanes_.mine) {
        const int source = results_[lane].empty() ? first_ : lane;
        at::Tensor shard = result(source);
        shards[lane] = source == lane ? shard
                                      : shard.to(
                                            device_of(lane),
                                            shard.scalar_type(),
                                            /*non_blocking=*/false,
                                            /*copy=*/true);
      }
      return shards;
    }
    TORCH_MESH_ASSERT(
        o < prepared_.outputs.size(),
        "plan for ",
        op_.schema.name,
        " has ",
        prepared_.outputs.size(),
        " outputs, the op more");
    if (is_joined_) {
      return slices_of_output(o, result(first_));
    }
    const PreparedPlan::Output& output = prepared_.outputs[o];
    shards = Shards(lanes_.num);
    for (const int lane : lanes_.mine) {
      const at::Tensor local = result(lane);
      if (local.sizes() != c10::IntArrayRef(output.local_sizes[lane])) {
        size_mismatch(o, local, output.local_sizes[lane]);
      }
      shards[lane] = local;
    }
    if (output.folds) {
      return rounded(fold_lanes(
          plan_.mesh,
          plan_.executed_on,
          plan_.outputs[o].layout.sharded_axes(),
          plan_.outputs[o].layout.partial_axes(),
          std::move(shards)));
    }
    Shards held;
    for (int lane : output.lane_of_shard) {
      held.push_back(shards[lane]);
    }
    return rounded(std::move(held));
  }

  Shards slices_of_output(size_t o, const at::Tensor& whole) {
    const PreparedPlan::Output& output = prepared_.outputs[o];
    if (whole.sizes() != c10::IntArrayRef(plan_.outputs[o].sizes)) {
      size_mismatch(o, whole, plan_.outputs[o].sizes);
    }
    if (output.cut_dim < 0) {
      return {whole};
    }
    return slices_of(whole, output);
  }

  [[noreturn]] void size_mismatch(
      size_t o,
      const at::Tensor& local,
      c10::IntArrayRef planned) const {
    raise_size_mismatch(o, context(), local.sizes(), planned, plan_);
  }

  at::Tensor pack_view(
      size_t o,
      size_t input,
      const Layout& layout,
      const at::Tensor& first,
      Shards shards) const {
    const at::Tensor& source = *tensors_[input].tensor;
    const PreparedPlan::Window& window = prepared_.windows[o];
    // Slices of one view have its strides.
    if (!is_joined_ && o < prepared_.outputs.size() &&
        prepared_.outputs[o].hides_order) {
      for (Shard& shard : shards) {
        shard = showing_order(shard.local(), window.strides);
      }
    }
    at::Tensor view = make_view(
        source.storage(),
        layout,
        window.sizes,
        window.strides,
        offset_in(source, first) + window.offset,
        first.scalar_type(),
        std::move(shards),
        /*is_write_back=*/!stands_as_planned(input) ||
            meta_of(source).is_write_back,
        source.is_inference());
    // Its shards are those of before this op: a reader on another thread may
    // have reduced the storage since, and then the view is taken again.
    meta_of(view).memory_generation.store(inputs_[input].generation);
    return view;
  }

  at::Tensor pack_new(size_t o, const Layout& layout, Shards shards) const {
    check_is_strided(op_.schema.name, shards.any().local());
    auto is_of_an_argument = [this](const Shard& result) {
      return std::any_of(
          inputs_.begin(), inputs_.end(), [&](const Input& input) {
            return lies_in(result, *input.shards);
          });
    };
    if (layout.is_replicated() && leaves_gaps(shards, is_of_an_argument)) {
      return make_with_gaps(layout, std::move(shards));
    }
    make_dense(shards, /*side_by_side=*/is_joined_);
    return make_result(prepared_, o, layout, std::move(shards), is_joined_);
  }

  const Op& op_;
  const PreparedPlan& prepared_;
  const Plan& plan_;
  const CallTensors& call_;
  const c10::SmallVector<CallTensors::Entry, 6>& tensors_;
  Stack& stack_;
  const size_t base_;
  const c10::ArrayRef<c10::IValue> args_;
  const Lanes& lanes_;
  c10::SmallVector<Input, 4> inputs_;
  bool is_joined_ = false;
  c10::SmallVector<Stack, 2> results_;  // [lanes]; of those that have run
  int first_ = 0;                       // lane that has run
};

}  // namespace

void execute(
    const Op& op,
    const PreparedPlan& prepared,
    const CallTensors& tensors,
    Stack& stack) {
  Execution(op, prepared, tensors, stack).run();
}

}  // namespace torch_mesh

// list_executor.cpp: one instruction after the other, on many tensors each.

#include "run/list_executor.h"

#include <algorithm>
#include <map>

#include <ATen/ops/maximum.h>

#include <torch_mesh/error.h>

#include "comm/flat_sum.h"
#include "comm/run_steps.h"
#include "lower/list.h"
#include "run/argument.h"
#include "run/planned_list.h"
#include "run/stand_ins.h"
#include "shard/local_ops.h"
#include "shard/strides.h"
#include "tensor/base_value.h"
#include "tensor/global_tensor.h"
#include "tensor/keep_sum.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

using Kind = Instruction::Kind;

class ListExecutor : private PlannedList {
 public:
  explicit ListExecutor(ListCall call) : PlannedList(std::move(call)) {}

  void run() {
    explain();
    find_facts();
    const std::vector<Instruction> instructions =
        lower_list(facts_, kBucketBytes);
    if (is_explaining_instructions()) [[unlikely]] {
      explain_instructions(text_of(facts_, instructions));
    }
    results_.resize(size());
    for (const Instruction& instruction : instructions) {
      run(instruction);
    }
    count_writes(size());
  }

 private:
  // --- arguments -------------------------------------------------------------

  void find_facts() {
    facts_.is_fused = is_fused_;
    facts_.arguments.resize(num_slots_);
    arguments_.resize(num_slots_);
    for (size_t l = 0; l < lists_.size(); ++l) {
      for (size_t e = 0; e < lists_[l].tensors.size(); ++e) {
        add_element(l, e);
      }
    }
    for (const SharedArg& arg : shared_) {
      moves_of_shared_.push_back(redistribution_of(
          on_mesh(arg.tensor),
          Layout::replicated(mesh_),
          arg.tensor.sizes(),
          arg.tensor.scalar_type()));
      add(arg.slot, arg.tensor, *moves_of_shared_.back(), arg.is_written);
      facts_.arguments[arg.slot].is_of_list = false;
    }
    std::map<AxisMask, std::vector<int>> groups;
    for (size_t e = 0; e < size(); ++e) {
      groups[layout_of_element(e).sharded_axes()].push_back(
          static_cast<int>(e));
    }
    for (auto& [axes, elements] : groups) {
      facts_.groups.push_back(std::move(elements));
    }
  }

  void add(
      int slot,
      const at::Tensor& tensor,
      const Redistribution& moves,
      bool is_written) {
    const bool is_here = this->is_here(tensor);
    Argument& argument = arguments_[slot];
    argument.tensor = &tensor;
    argument.moves = &moves;
    argument.is_global = is_global(tensor);
    argument.is_written = is_written;
    argument.must_be_dense = is_fused_;
    ListFacts::Argument& facts = facts_.arguments[slot];
    facts.moves = &moves;
    facts.is_written = is_written;
    facts.is_here = is_here;
    facts.may_keep =
        is_here && moves.from.has_partial() && can_keep_sum(tensor);
  }

  void add_element(size_t l, size_t e) {
    const ListArg& list = lists_[l];
    const at::Tensor& tensor = list.tensors[e];
    const int slot = slot_of(l, e);
    const Redistribution& moves = moves_of(l, e);
    add(slot, tensor, moves, list.is_written);
    ListFacts::Argument& facts = facts_.arguments[slot];
    if (moves.steps.empty()) {
      return;
    }
    facts.lies_in_written =
        std::ranges::any_of(lists_, [&](const ListArg& other) {
          return other.is_written && !other.tensors.empty() &&
                 other.tensors[e].is_alias_of(tensor);
        });
    // Gradients come twice in addcmul.
    for (size_t other = 0; other < l && !list.is_written; ++other) {
      if (facts.same_as < 0 && !lists_[other].tensors.empty() &&
          lists_[other].tensors[e].is_same(tensor) &&
          moves_of(other, e) == moves) {
        facts.same_as = slot_of(other, e);
      }
    }
  }

  int slot_of(size_t list, size_t element) const {
    return lists_[list].first_slot + static_cast<int>(element);
  }

  // --- the local op ----------------------------------------------------------

  // The shard that a lane reads: its own, or its memory's replica. Kernels on
  // lists take no number from another device.
  at::Tensor pick(int slot, int lane, const Lanes& lanes) const {
    const Shards& shards = *arguments_[slot].shards;
    const bool has_own = static_cast<int>(shards.size()) == lanes.num;
    const int device = lanes.first_device[lane];
    const at::Tensor& shard =
        shards[has_own ? lane : mesh_.lanes(0).lane_of_device[device]].local();
    return facts_.arguments[slot].is_of_list
               ? shard
               : shard.to(torch_device(mesh_.devices()[device]));
  }

  Stack lists_of_lane(const std::vector<int>& elements, int lane) const {
    const Lanes& lanes = lanes_of(elements);
    const std::vector<size_t> numbered(elements.begin(), elements.end());
    Stack local;
    size_t next_list = 0;
    size_t next_shared = 0;
    for (size_t p = 0; p < op_.params.size(); ++p) {
      if (op_.params[p] == Op::ParamKind::kTensorList) {
        const size_t l = next_list++;
        c10::List<at::Tensor> part;
        if (!lists_[l].tensors.empty()) {
          for (const int e : elements) {
            part.push_back(pick(slot_of(l, e), lane, lanes));
          }
        }
        local.emplace_back(std::move(part));
      } else if (next_shared < shared_.size() &&
                 shared_[next_shared].param == p) {
        local.emplace_back(pick(shared_[next_shared++].slot, lane, lanes));
      } else {
        local.push_back(numbers(p, numbered));
      }
    }
    return local;
  }

  const Lanes& lanes_of(const std::vector<int>& elements) const {
    return mesh_.lanes(layout_of_element(elements[0]).sharded_axes());
  }

  void call(const std::vector<int>& elements) {
    const Lanes& lanes = lanes_of(elements);
    int num_done = 0;
    try {
      for (const int lane : lanes.mine) {
        Stack local = lists_of_lane(elements, lane);
        op_.handle.callBoxed(local);
        ++num_done;
        take_results(elements, local, lane, lanes);
      }
    } catch (const c10::Error& error) {
      const bool is_early =
          elements == facts_.groups[0] && num_done == 0 &&
          fails_on_all_values(
              op_, lists_of_lane(elements, lanes.mine[0]), error.msg());
      if (!is_early) {
        end_writes_after(error.what_without_backtrace(), elements);
      }
      throw;
    } catch (const std::exception& error) {
      end_writes_after(error.what(), elements);
      throw;
    }
  }

  void take_results(
      const std::vector<int>& elements,
      const Stack& local,
      int lane,
      const Lanes& lanes) {
    if (local.empty() || !local[0].isTensorList()) {
      return;
    }
    const auto parts = local[0].toTensorVector();
    for (size_t i = 0; i < elements.size(); ++i) {
      Shards& results = results_[elements[i]];
      if (results.empty()) {
        results = Shards(lanes.num);
      }
      results[lane] = parts[i];
    }
  }

  // Groups that are done have been written, as the first elements of a plain
  // list; in the group that failed some lanes may have been and others not.
  void end_writes_after(
      const std::string& error,
      const std::vector<int>& failed) {
    const bool breaks = lanes_of(failed).num > 1;
    for (const ListArg& list : lists_) {
      for (size_t e = 0; list.is_written && e < list.tensors.size(); ++e) {
        const int slot = list.first_slot + static_cast<int>(e);
        if (!arguments_[slot].is_open) {
          continue;
        }
        if (breaks && std::ranges::count(failed, static_cast<int>(e)) != 0) {
          mark_broken(list.tensors[e], error);
        } else {
          end_write(list.tensors[e]);
        }
      }
    }
    count_writes(size());
  }

  // --- what the caller sees --------------------------------------------------

  // The one shared argument that any op writes says whether an element is not
  // finite: what one memory has found holds for all.
  static at::Tensor largest(const Shards& replicas) {
    at::Tensor value = replicas.any().local();
    for (const Shard& other : replicas) {
      value = at::maximum(value, other.local().to(value.device()));
    }
    return value;
  }

  // On the shards that were written: another element may have written to the
  // storage of this one since, and what it has now is no longer these.
  void end_writing(int slot) {
    const at::Tensor& tensor = *arguments_[slot].tensor;
    const Shards& shards = *arguments_[slot].shards;
    const bool is_of_list = facts_.arguments[slot].is_of_list;
    if (arguments_[slot].is_open && (is_of_list || shards.size() == 1)) {
      end_write(tensor);
      return;
    }
    const at::Tensor value =
        is_of_list ? whole_value(arguments_[slot], mesh_) : largest(shards);
    if (is_global(tensor)) {
      write_value(tensor, value);
    } else {
      tensor.copy_(value);
    }
  }

  // The kernel of an element takes the number for a tensor, of another shape;
  // so where dims of size 1 lie unusually, the result has them there too.
  bool takes_numbers() const {
    const std::string& name = op_.schema.name;
    const auto is_of = [&name](const char* base) {
      return name.starts_with(std::string("aten::_foreach_") + base + ".") &&
             !name.ends_with(".List");
    };
    return is_of("add") || is_of("sub") || is_of("mul") || is_of("div");
  }

  // As torch's iterator lays out a result of elements that lie as `model`.
  std::vector<int64_t> strides_like(const at::Tensor& model) const {
    const std::vector<int64_t> sizes = model.sizes().vec();
    if (!takes_numbers()) {
      if (model.is_contiguous()) {
        return contiguous_strides(sizes);
      }
      if (model.is_contiguous(at::MemoryFormat::ChannelsLast)) {
        return c10::get_channels_last_strides_2d(sizes);
      }
      if (model.is_non_overlapping_and_dense()) {
        return model.strides().vec();
      }
    }
    return strides_in_order_of(sizes, model.strides().vec());
  }

  at::Tensor make(size_t e) {
    const Shard first = results_[e].any();
    const at::Tensor& model = lists_[0].tensors[e];
    const Layout& layout = layout_of_element(e);
    const bool is_whole = layout.sharded_axes() == 0;
    return make_global(
        layout,
        is_whole ? first.sizes() : model.sizes(),
        is_whole ? first.strides().vec() : strides_like(model),
        first.scalar_type(),
        std::move(results_[e]));
  }

  void give_results() {
    c10::List<at::Tensor> given;
    const bool returns = !op_.schema.returns.empty() && !results_[0].empty();
    for (size_t e = 0; returns && e < size(); ++e) {
      given.push_back(make(e));
    }
    stack_.resize(base_);
    if (returns) {
      stack_.emplace_back(std::move(given));
    }
  }

  // --- the instructions ------------------------------------------------------

  void run(const Instruction& instruction) {
    const std::vector<int>& slots = instruction.slots;
    switch (instruction.kind) {
      case Kind::kReduce:
      case Kind::kMove:
      case Kind::kForm:
        return run_together(instruction.kind, slots);
      case Kind::kCallGroup:
        return call(slots);
      case Kind::kMake:
        return give_results();
      default:
        for (const int slot : slots) {
          run_on(instruction.kind, slot);
        }
    }
  }

  void run_together(Kind kind, const std::vector<int>& slots) {
    std::vector<Argument*> together;
    for (const int slot : slots) {
      together.push_back(&arguments_[slot]);
    }
    if (kind == Kind::kMove) {
      move_together(together);
    } else if (kind == Kind::kForm) {
      form_together(together);
    } else {
      reduce_together(together);
    }
  }

  void run_on(Kind kind, int slot) {
    Argument& argument = arguments_[slot];
    switch (kind) {
      case Kind::kTake:
        return take(argument);
      case Kind::kOpen:
        return open(argument, /*overwrites=*/false);
      case Kind::kSpread:
        return spread(argument, mesh_);
      case Kind::kOwn:
        return own(argument.moved);
      case Kind::kDense:
        return keep_order(argument);
      case Kind::kShare:
        argument.shards = arguments_[facts_.arguments[slot].same_as].shards;
        return;
      case Kind::kKeep:
        return keep(argument);
      case Kind::kWrote:
      case Kind::kWriteBack:
        return end_writing(slot);
      default:
        TORCH_MESH_ASSERT(false, name(kind), " is for no list");
    }
  }

  ListFacts facts_;
  std::vector<Argument> arguments_;  // [slots]
  std::vector<std::shared_ptr<const Redistribution>> moves_of_shared_;
  std::vector<Shards> results_;  // of each element, by lane
};

}  // namespace

void run_list(ListCall call) { ListExecutor(std::move(call)).run(); }

}  // namespace torch_mesh

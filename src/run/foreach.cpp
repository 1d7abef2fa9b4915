// foreach.cpp: lists planned by element, run by group or in sequence.

#include "run/foreach.h"

#include <algorithm>
#include <map>
#include <set>

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/maximum.h>

#include <torch_mesh/error.h>

#include "comm/run_steps.h"
#include "rules/families.h"
#include "run/call_tensors.h"
#include "run/destinations.h"
#include "run/planned_list.h"
#include "run/stand_ins.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "tensor/base_value.h"
#include "tensor/global_tensor.h"
#include "tensor/keep_sum.h"
#include "tensor/pending_sums.h"
#include "trace/counters.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

class ForeachCall : private PlannedList {
 public:
  explicit ForeachCall(ListCall call) : PlannedList(std::move(call)) {}

  void run() {
    explain();
    reduce_sums();
    form_sums();
    bring_over();
    std::map<AxisMask, std::vector<size_t>> groups;
    for (size_t e = 0; e < size(); ++e) {
      groups[layout_of_element(e).sharded_axes()].push_back(e);
    }
    results_.resize(size());
    for (const auto& [axes, elements] : groups) {
      try {
        run_group(axes, elements);
      } catch (const c10::Error& error) {
        if (elements != groups.begin()->second || num_done_ > 0 ||
            !fails_on_all_values(
                op_,
                lists_of_lane(axes, elements, mesh_.lanes(axes).mine[0]),
                error.msg())) {
          end_writes_after(error.what_without_backtrace(), axes, elements);
          count_writes(size());
        }
        throw;
      } catch (const std::exception& error) {
        end_writes_after(error.what(), axes, elements);
        count_writes(size());
        throw;
      }
    }
    finish();
    count_writes(size());
  }

 private:
  // Sums that are read whole are reduced for all who hold them, in buckets.
  void reduce_sums() {
    c10::SmallVector<const at::Tensor*, 8> pending;
    c10::SmallVector<AxisMask, 8> axes;
    for (size_t l = 0; l < lists_.size(); ++l) {
      for (size_t e = 0; e < lists_[l].tensors.size(); ++e) {
        AxisMask reduced = 0;
        for (const Step& step : moves_of(l, e).steps) {
          if (step.kind != Step::Kind::kAllReduce) {
            break;
          }
          reduced |= step.axes();
        }
        if (reduced != 0 && is_here(lists_[l].tensors[e])) {
          pending.push_back(&lists_[l].tensors[e]);
          axes.push_back(reduced);
        }
      }
    }
    for (const SharedArg& arg : shared_) {
      if (is_here(arg.tensor) && layout_of(arg.tensor).has_partial()) {
        pending.push_back(&arg.tensor);
        axes.push_back(layout_of(arg.tensor).partial_axes());
      }
    }
    reduce_pending(pending, axes);
  }

  // Sums that are read in parts are formed so, and stay so for all who hold
  // them: the gradient of a cut weight is reduce-scattered once. A bucket's
  // parts are gone before the next one begins.
  void form_sums() {
    std::vector<Forming> bucket;
    int64_t num_bytes = 0;
    for (size_t l = 0; l < lists_.size(); ++l) {
      for (size_t e = 0; e < lists_[l].tensors.size(); ++e) {
        const at::Tensor& tensor = lists_[l].tensors[e];
        const Redistribution& planned = moves_of(l, e);
        if (!planned.from.has_partial() || !can_keep_sum(tensor) ||
            list_that_moves_it(l, e)) {
          continue;
        }
        Held now = held(tensor);
        if (now.layout != planned.from) {
          continue;
        }
        if (num_bytes + planned.num_bytes() > kBucketBytes) {
          form(bucket);
          num_bytes = 0;
        }
        num_bytes += planned.num_bytes();
        bucket.push_back({&tensor, &planned, std::move(now)});
      }
    }
    form(bucket);
  }

  struct Forming {
    const at::Tensor* tensor;
    const Redistribution* moves;
    Held parts;
  };

  static void form(std::vector<Forming>& bucket) {
    std::vector<const Redistribution*> moves;
    std::vector<Shards> shards;
    for (Forming& one : bucket) {
      moves.push_back(one.moves);
      shards.push_back(std::move(one.parts.shards));
    }
    run_redistributions(moves, shards);
    for (size_t i = 0; i < bucket.size(); ++i) {
      keep_sum(
          *bucket[i].tensor,
          bucket[i].parts.memory_generation,
          moves[i]->to,
          std::move(shards[i]));
    }
    bucket.clear();
  }

  // A tensor that has to move.
  struct Moving {
    size_t list;
    size_t element;
    // Of its plan; another thread may have formed a sum since: then `anew`.
    const Redistribution* moves;
    std::shared_ptr<const Redistribution> anew = nullptr;
    std::optional<size_t> same_as = std::nullopt;  // list that moves it
  };

  void bring_over() {
    std::vector<Moving> moving;
    for (size_t l = 0; l < lists_.size(); ++l) {
      for (size_t e = 0; e < lists_[l].tensors.size(); ++e) {
        begin(l, e, moving);
      }
    }
    move(moving);
    for (SharedArg& arg : shared_) {
      arg.stands = is_here(arg.tensor) && layout_of(arg.tensor).is_replicated();
      arg.replicas = !arg.stands      ? spread(arg.tensor, arg.is_written)
                     : arg.is_written ? begin_write(arg.tensor)
                                      : read(arg.tensor);
      const std::vector<int>& first = mesh_.lanes(0).first_device;
      for (const int i : mesh_.lanes(0).mine) {
        // Kernels on lists take no number from another device.
        arg.replicas[i] =
            arg.replicas[i].local().to(torch_device(mesh_.devices()[first[i]]));
      }
    }
  }

  // The whole value for each memory. What is to be written is nobody else's.
  Shards spread(const at::Tensor& tensor, bool is_written) const {
    return on_each(
        mesh_, is_global(tensor) ? full_value(tensor) : tensor, is_written);
  }

  // The shards as they are, and what is left to do for them.
  void begin(size_t l, size_t e, std::vector<Moving>& moving) {
    ListArg& list = lists_[l];
    const at::Tensor& tensor = list.tensors[e];
    const Redistribution& planned = moves_of(l, e);
    const bool here = is_here(tensor);
    if (!here) {
      list.shards.push_back(spread(tensor, list.is_written));
      list.stands.push_back(false);
      if (!planned.steps.empty()) {
        moving.push_back({l, e, &planned});
      }
      return;
    }
    if (!list.is_written) {
      const Shards* settled = settled_shards(tensor);
      if (settled && meta_of(tensor).layout == planned.to) {
        list.stands.push_back(true);
        list.shards.push_back(*settled);
        return;
      }
    }
    const bool stands = layout_of(tensor) == planned.to;
    list.stands.push_back(stands);
    if (stands) {
      list.shards.push_back(
          list.is_written ? begin_write(tensor) : read(tensor));
      return;
    }
    Held now = held(tensor);
    list.shards.push_back(std::move(now.shards));
    Moving one{l, e, &planned};
    if (now.layout != planned.from) {
      one.anew = redistribution_of(
          now.layout, planned.to, tensor.sizes(), tensor.scalar_type());
      one.moves = one.anew.get();
    }
    if (!list.is_written) {
      one.same_as = list_that_moves_it(l, e);
    }
    moving.push_back(std::move(one));
  }

  // The number of an earlier list that has the same tensor at this place and
  // moves it alike: gradients come twice in addcmul.
  std::optional<size_t> list_that_moves_it(size_t l, size_t e) const {
    for (size_t other = 0; other < l; ++other) {
      const ListArg& list = lists_[other];
      if (!list.tensors.empty() &&
          list.tensors[e].is_same(lists_[l].tensors[e]) &&
          moves_of(other, e) == moves_of(l, e)) {
        return other;
      }
    }
    return std::nullopt;
  }

  // Whether the element writes to the tensor's storage, where shards that have
  // moved may lie still.
  bool lies_in_written(const at::Tensor& tensor, size_t e) const {
    return std::any_of(lists_.begin(), lists_.end(), [&](const ListArg& list) {
      return list.is_written && list.tensors[e].is_alias_of(tensor);
    });
  }

  // All at once, in buckets.
  void move(const std::vector<Moving>& moving) {
    std::vector<const Redistribution*> moves;
    std::vector<Shards> shards;
    for (const Moving& one : moving) {
      if (!one.same_as) {
        moves.push_back(one.moves);
        shards.push_back(std::move(lists_[one.list].shards[one.element]));
      }
    }
    run_redistributions(moves, shards);
    size_t next = 0;
    for (const Moving& one : moving) {
      ListArg& list = lists_[one.list];
      const size_t e = one.element;
      if (one.same_as) {
        list.shards[e] = lists_[*one.same_as].shards[e];
        continue;
      }
      list.shards[e] = std::move(shards[next++]);
      if (lies_in_written(list.tensors[e], e)) {
        own(list.shards[e]);
      }
    }
    if (is_fused_) {
      make_dense();
    }
  }

  // Fused kernels read memory as it lies, which slices do not lie in.
  void make_dense() {
    for (ListArg& list : lists_) {
      for (size_t e = 0; e < list.tensors.size(); ++e) {
        if (list.is_written && list.stands[e]) {
          continue;
        }
        for (Shard& shard : list.shards[e]) {
          shard = in_order(shard.local(), list.tensors[e].strides());
        }
      }
    }
  }

  // The shard that a lane reads: its own, or its memory's replica.
  const at::Tensor& pick(const Shards& shards, int lane, const Lanes& lanes)
      const {
    const bool has_own = static_cast<int>(shards.size()) == lanes.num;
    const int device = lanes.first_device[lane];
    return shards[has_own ? lane : mesh_.lanes(0).lane_of_device[device]]
        .local();
  }

  Stack lists_of_lane(
      AxisMask axes,
      const std::vector<size_t>& elements,
      int lane) const {
    const Lanes& lanes = mesh_.lanes(axes);
    Stack local;
    size_t next_list = 0;
    size_t next_shared = 0;
    for (size_t p = 0; p < op_.params.size(); ++p) {
      if (op_.params[p] == Op::ParamKind::kTensorList) {
        const ListArg& list = lists_[next_list++];
        c10::List<at::Tensor> part;
        if (!list.tensors.empty()) {
          for (size_t e : elements) {
            part.push_back(pick(list.shards[e], lane, lanes));
          }
        }
        local.emplace_back(std::move(part));
      } else if (next_shared < shared_.size() &&
                 shared_[next_shared].param == p) {
        local.emplace_back(pick(shared_[next_shared++].replicas, lane, lanes));
      } else {
        local.push_back(numbers(p, elements));
      }
    }
    return local;
  }

  void run_group(AxisMask axes, const std::vector<size_t>& elements) {
    const Lanes& lanes = mesh_.lanes(axes);
    num_done_ = 0;
    for (const int lane : lanes.mine) {
      Stack local = lists_of_lane(axes, elements, lane);
      op_.handle.callBoxed(local);
      ++num_done_;
      if (!local.empty() && local[0].isTensorList()) {
        const auto parts = local[0].toTensorVector();
        for (size_t i = 0; i < elements.size(); ++i) {
          Shards& results = results_[elements[i]];
          if (results.empty()) {
            results = Shards(lanes.num);
          }
          results[lane] = parts[i];
        }
      }
    }
  }

  // Groups that are done have been written, as the first elements of a plain
  // list; in the group that failed some lanes may have been and others not.
  void end_writes_after(
      const std::string& error,
      AxisMask axes,
      const std::vector<size_t>& failed) {
    const std::set<size_t> among_lanes =
        mesh_.lanes(axes).num > 1
            ? std::set<size_t>(failed.begin(), failed.end())
            : std::set<size_t>();
    for (const ListArg& list : lists_) {
      for (size_t e = 0; list.is_written && e < list.tensors.size(); ++e) {
        const at::Tensor& tensor = list.tensors[e];
        if (!list.stands[e]) {
          continue;
        }
        if (among_lanes.count(e)) {
          mark_broken(tensor, error);
        } else {
          end_write(tensor);
        }
      }
    }
  }

  // Asks no tensor for its layout: of a view whose storage another element has
  // written since, that would take the old value again.
  void finish() {
    for (size_t l = 0; l < lists_.size(); ++l) {
      const ListArg& list = lists_[l];
      for (size_t e = 0; list.is_written && e < list.tensors.size(); ++e) {
        const at::Tensor& tensor = list.tensors[e];
        if (list.stands[e]) {
          end_write(tensor);
        } else {
          give(
              tensor,
              run_redistribution(
                  *redistribution_of(
                      moves_of(l, e).to,
                      Layout::replicated(mesh_),
                      tensor.sizes(),
                      tensor.scalar_type()),
                  list.shards[e])
                  .any()
                  .local());
        }
      }
    }
    for (const SharedArg& arg : shared_) {
      if (arg.is_written && arg.stands && arg.replicas.size() == 1) {
        end_write(arg.tensor);
      } else if (arg.is_written) {
        give(arg.tensor, largest(arg.replicas));
      }
    }
    pack();
  }

  static void give(const at::Tensor& tensor, const at::Tensor& value) {
    if (is_global(tensor)) {
      write_value(tensor, value);
    } else {
      tensor.copy_(value);
    }
  }

  // The one shared argument that any op writes says whether an element is not
  // finite: what one memory has found holds for all.
  static at::Tensor largest(const Shards& replicas) {
    at::Tensor value = replicas.any().local();
    for (const Shard& other : replicas) {
      value = at::maximum(value, other.local().to(value.device()));
    }
    return value;
  }

  void pack() {
    c10::List<at::Tensor> packed;
    const bool returns = !op_.schema.returns.empty() && !results_[0].empty();
    if (returns) {
      for (size_t e = 0; e < size(); ++e) {
        packed.push_back(pack_element(e));
      }
    }
    stack_.resize(base_);
    if (returns) {
      stack_.emplace_back(std::move(packed));
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

  at::Tensor pack_element(size_t e) {
    const Shard first = results_[e].any();
    const at::Tensor& model = lists_[0].tensors[e];
    const Layout& layout = layout_of_element(e);
    if (layout.sharded_axes() == 0) {
      return make_global(
          layout,
          first.sizes(),
          first.strides(),
          first.scalar_type(),
          std::move(results_[e]));
    }
    return make_global(
        layout,
        model.sizes(),
        strides_like(model),
        first.scalar_type(),
        std::move(results_[e]));
  }

  int num_done_ = 0;             // lanes of the group at work
  std::vector<Shards> results_;  // of each element, by lane
};

// Norms of elements: each is planned for itself, as a norm of one tensor.
bool run_norms(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const auto tensors = stack[base].toTensorVector();
  const auto dtype = stack[base + 2].toOptional<c10::ScalarType>();
  c10::List<at::Tensor> norms;
  for (const at::Tensor& tensor : tensors) {
    norms.push_back(
        at::linalg_vector_norm(
            tensor, stack[base + 1].toScalar(), std::nullopt, false, dtype));
  }
  stack.resize(base);
  stack.emplace_back(std::move(norms));
  return true;
}

// Whether torch's own kernel for the CPU is a loop over the elements, which
// calls an op for each: on any device.
bool is_loop(const Op& op) {
  return !op.handle.hasKernelForDispatchKey(c10::DispatchKey::CPU) &&
         op.handle.hasKernelForDispatchKey(
             c10::DispatchKey::CompositeExplicitAutograd);
}

// On arguments of its own: the loop takes lists of numbers out of its stack.
void run_loop(const Op& op, Stack& stack, const ListCall& call) {
  const size_t base = stack.size() - op.params.size();
  Stack loop(stack.begin() + base, stack.end());
  try {
    op.handle.redispatchBoxed(
        c10::DispatchKeySet(c10::DispatchKey::CPU), &loop);
  } catch (const std::exception&) {
    call.count_writes(call.num_before_error());
    throw;
  }
  call.count_writes(call.size());
  stack.resize(base);
  std::move(loop.begin(), loop.end(), std::back_inserter(stack));
}

void run_in_sequence(const Op& op, Stack& stack, const ListCall& call) {
  for (size_t e = 0; e < call.size(); ++e) {
    Stack one;
    call.push_element(e, one);
    ForeachCall(ListCall(op, one)).run();
  }
  stack.resize(stack.size() - op.params.size());
}

}  // namespace

bool is_foreach_op(const std::string& name) {
  const bool is_norm = name.rfind("aten::_foreach_norm.", 0) == 0 &&
                       name.find("out") == std::string::npos;
  return is_norm || rules::is_elementwise_group(name);
}

bool run_foreach(const Op& op, Stack& stack) {
  if (op.base_name == "aten::_foreach_norm") {
    return run_norms(op, stack);
  }
  ListCall call(op, stack);
  if (!call.fits()) {
    return false;
  }
  if (!call.is_sequence()) {
    ForeachCall(std::move(call)).run();
  } else if (is_loop(op)) {
    run_loop(op, stack, call);
  } else {
    run_in_sequence(op, stack, call);
  }
  return true;
}

}  // namespace torch_mesh

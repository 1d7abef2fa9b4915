// foreach.cpp: lists planned by element, run by group or in sequence.

#include "dispatch/foreach.h"

#include <map>
#include <set>

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/maximum.h>

#include <torch_mesh/error.h>

#include "comm/run_steps.h"
#include "dispatch/call_key.h"
#include "dispatch/destinations.h"
#include "dispatch/list_call.h"
#include "dispatch/stand_ins.h"
#include "rules/families.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "tensor/global_tensor.h"
#include "tensor/pending_sums.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

class ForeachCall : private ListCall {
 public:
  explicit ForeachCall(ListCall call) : ListCall(std::move(call)) {}

  void run() {
    reduce_sums();
    find_mesh();
    find_layouts();
    bring_over();
    std::map<AxisMask, std::vector<size_t>> groups;
    for (size_t e = 0; e < size(); ++e) {
      groups[layouts_[e].sharded_axes()].push_back(e);
    }
    results_.resize(size());
    for (const auto& [axes, elements] : groups) {
      try {
        run_group(axes, elements);
      } catch (const c10::Error& error) {
        if (elements != groups.begin()->second || lane_ > 0 ||
            !fails_on_all_values(
                op_, lists_of_lane(axes, elements, 0), error.msg())) {
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
  void reduce_sums() {
    std::vector<const at::Tensor*> all;
    for (const ListArg& list : lists_) {
      for (const at::Tensor& tensor : list.tensors) {
        all.push_back(&tensor);
      }
    }
    reduce_pending(all);
  }

  void find_mesh() {
    for (const ListArg& list : lists_) {
      for (const at::Tensor& tensor : list.tensors) {
        if (!is_global(tensor) || layout_of(tensor).mesh().num_axes() == 0) {
          continue;
        }
        const Mesh& theirs = layout_of(tensor).mesh();
        TORCH_MESH_CHECK_VALUE(
            mesh_.num_axes() == 0 || mesh_ == theirs,
            "mixed-meshes",
            op_.schema.name,
            ": the tensors live on two meshes.\n  mesh  ",
            mesh_.str(),
            "\n  mesh  ",
            theirs.str(),
            "\nHint: bring one of them over with x.cpu() and "
            "torch_mesh.distribute(x, mesh, placements).");
        mesh_ = theirs;
      }
    }
  }

  Layout on_mesh(const at::Tensor& tensor) const {
    return is_global(tensor) && layout_of(tensor).mesh() == mesh_
               ? layout_of(tensor)
               : Layout::replicated(mesh_);
  }

  // An element follows what it writes, else its first tensor.
  void find_layouts() {
    for (size_t e = 0; e < size(); ++e) {
      layouts_.push_back(on_mesh(lists_[0].tensors[e]));
    }
  }

  void bring_over() {
    for (ListArg& list : lists_) {
      for (size_t e = 0; e < list.tensors.size(); ++e) {
        bring_over(list, e);
      }
    }
    for (SharedArg& arg : shared_) {
      arg.stands = is_here(arg.tensor) && layout_of(arg.tensor).is_replicated();
      arg.replicas = !arg.stands      ? spread(arg.tensor, arg.is_written)
                     : arg.is_written ? begin_write(arg.tensor)
                                      : read(arg.tensor);
      const std::vector<int>& first = mesh_.lanes(0).first_device;
      for (size_t i = 0; i < arg.replicas.size(); ++i) {
        // Kernels on lists take no number from another device.
        arg.replicas[i] =
            arg.replicas[i].local().to(torch_device(mesh_.devices()[first[i]]));
      }
    }
  }

  bool is_here(const at::Tensor& tensor) const {
    return is_global(tensor) && layout_of(tensor).mesh() == mesh_;
  }

  // The whole value for each memory. What is to be written is nobody else's.
  Shards spread(const at::Tensor& tensor, bool is_written) const {
    return on_each(
        mesh_, is_global(tensor) ? full_value(tensor) : tensor, is_written);
  }

  void bring_over(ListArg& list, size_t e) const {
    const at::Tensor& tensor = list.tensors[e];
    const bool here = is_here(tensor);
    const Layout from = on_mesh(tensor);
    const Layout to = tensor.sizes() == lists_[0].tensors[e].sizes()
                          ? layouts_[e]
                          : Layout::replicated(mesh_);
    const bool stands = here && from == to;
    Shards shards = !here ? spread(tensor, list.is_written)
                    : list.is_written && stands ? begin_write(tensor)
                                                : read(tensor);
    if (from != to) {
      shards = run_redistribution(
          plan_redistribution(
              from, to, as_span(tensor.sizes()), tensor.itemsize()),
          shards);
    }
    // Fused kernels read memory as it lies, which slices do not lie in.
    if (is_fused_ && !(list.is_written && stands)) {
      for (Shard& shard : shards) {
        shard = in_order(shard.local(), tensor.strides());
      }
    }
    list.shards.push_back(std::move(shards));
    list.layouts.push_back(to);
    list.stands.push_back(stands);
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
    const int num_lanes = mesh_.lanes(axes).num;
    for (lane_ = 0; lane_ < num_lanes; ++lane_) {
      Stack local = lists_of_lane(axes, elements, lane_);
      op_.handle.callBoxed(local);
      if (!local.empty() && local[0].isTensorList()) {
        const auto parts = local[0].toTensorVector();
        for (size_t i = 0; i < elements.size(); ++i) {
          results_[elements[i]].push_back(parts[i]);
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
    for (const ListArg& list : lists_) {
      for (size_t e = 0; list.is_written && e < list.tensors.size(); ++e) {
        const at::Tensor& tensor = list.tensors[e];
        if (list.stands[e]) {
          end_write(tensor);
        } else {
          give(
              tensor,
              run_redistribution(
                  plan_redistribution(
                      list.layouts[e],
                      Layout::replicated(mesh_),
                      as_span(tensor.sizes()),
                      tensor.itemsize()),
                  list.shards[e])[0]
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
    at::Tensor value = replicas[0].local();
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
    const Shard first = results_[e][0];
    const at::Tensor& model = lists_[0].tensors[e];
    const Layout& layout = layouts_[e];
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

  Mesh mesh_;
  int lane_ = 0;                 // at work
  std::vector<Layout> layouts_;  // of each element
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

// foreach.cpp: lists planned by element, run by group.

#include "dispatch/foreach.h"

#include <map>
#include <set>

#include <ATen/ops/linalg_vector_norm.h>

#include <torch_mesh/error.h>

#include "comm/communicator_steps.h"
#include "dispatch/buckets.h"
#include "dispatch/call_key.h"
#include "rules/families.h"
#include "tensor/global_tensor.h"
#include "tensor/shard.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// One list argument, element by element.
struct ListArg {
  size_t param;
  bool is_written;
  std::vector<at::Tensor> tensors;
  std::vector<Shards> shards;  // of each tensor, in its element's layout
};

class ForeachCall {
 public:
  ForeachCall(const Op& op, Stack& stack)
      : op_(op), stack_(stack), base_(stack.size() - op.params.size()) {
    for (size_t p = 0; p < op.params.size(); ++p) {
      if (op.params[p] == Op::ParamKind::kTensorList) {
        lists_.push_back(
            {p,
             op.schema.params[p].is_written,
             stack[base_ + p].toTensorVector(),
             {}});
      }
    }
  }

  // False if the lists are not element by element: torch reports that.
  bool fits() const {
    if (lists_.empty() || lists_[0].tensors.empty()) {
      return false;
    }
    for (const ListArg& list : lists_) {
      if (list.tensors.size() != size() && !list.tensors.empty()) {
        return false;
      }
    }
    return true;
  }

  void run() {
    reduce_pending();
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
        end_writes_after(error.what_without_backtrace(), axes, elements);
        throw;
      } catch (const std::exception& error) {
        end_writes_after(error.what(), axes, elements);
        throw;
      }
    }
    finish();
  }

 private:
  size_t size() const { return lists_[0].tensors.size(); }

  void reduce_pending() {
    std::vector<const at::Tensor*> pending;
    std::vector<AxisMask> axes;
    for (const ListArg& list : lists_) {
      for (const at::Tensor& tensor : list.tensors) {
        if (is_global(tensor) && layout_of(tensor).has_partial()) {
          pending.push_back(&tensor);
          axes.push_back(layout_of(tensor).partial_axes());
        }
      }
    }
    if (!pending.empty()) {
      reduce_in_buckets(pending, axes);
    }
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
        list.shards.push_back(shards_for(list, e));
      }
    }
  }

  Shards shards_for(const ListArg& list, size_t e) const {
    const at::Tensor& tensor = list.tensors[e];
    const Layout from = on_mesh(tensor);
    const Layout to = tensor.sizes() == lists_[0].tensors[e].sizes()
                          ? layouts_[e]
                          : Layout::replicated(mesh_);
    Shards shards;
    if (!is_global(tensor) || layout_of(tensor).mesh() != mesh_) {
      const at::Tensor whole = is_global(tensor) ? read(tensor)[0] : tensor;
      for (int device : from.lanes().first_device) {
        shards.push_back(
            tensor.dim() == 0
                ? whole
                : whole.to(torch_device(mesh_.devices()[device])));
      }
    } else {
      shards =
          list.is_written && from == to ? begin_write(tensor) : read(tensor);
    }
    if (from != to) {
      shards = run_redistribution(
          plan_redistribution(
              from,
              to,
              {tensor.sizes().data(), tensor.sizes().size()},
              tensor.itemsize()),
          shards);
    }
    // Fused kernels read memory as it lies, which slices do not lie in.
    const bool is_own = list.is_written && from == to;
    if (is_fused_ && !is_own) {
      for (at::Tensor& shard : shards) {
        shard = in_order(shard, tensor.strides());
      }
    }
    return shards;
  }

  // The shard that a lane reads: its own, or its memory's replica.
  const at::Tensor& pick(const Shards& shards, int lane, const Lanes& lanes)
      const {
    return static_cast<int>(shards.size()) == lanes.num
               ? shards[lane]
               : shards[mesh_.lanes(0)
                            .lane_of_device[lanes.first_device[lane]]];
  }

  void run_group(AxisMask axes, const std::vector<size_t>& elements) {
    const Lanes& lanes = mesh_.lanes(axes);
    for (int lane = 0; lane < lanes.num; ++lane) {
      Stack local;
      size_t next_list = 0;
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
        } else {
          local.push_back(other_argument(p, elements));
        }
      }
      op_.handle.callBoxed(local);
      if (!local.empty() && local[0].isTensorList()) {
        const auto parts = local[0].toTensorVector();
        for (size_t i = 0; i < elements.size(); ++i) {
          results_[elements[i]].push_back(parts[i]);
        }
      }
    }
  }

  c10::IValue other_argument(size_t p, const std::vector<size_t>& elements)
      const {
    const c10::IValue& value = stack_[base_ + p];
    if (value.isTensor()) {
      const at::Tensor& tensor = value.toTensor();
      return is_global(tensor) ? full_or_shard(tensor) : tensor;
    }
    if (value.isList()) {
      const auto list = value.toListRef();
      if (list.size() == size() && elements.size() != size()) {
        c10::impl::GenericList part(value.toList().elementType());
        for (size_t e : elements) {
          part.push_back(list[e]);
        }
        return part;
      }
    }
    return value;
  }

  // A tensor for all elements, as the step count of an optimizer: written ones
  // are 0-d and replicated, so a write reaches all.
  static at::Tensor full_or_shard(const at::Tensor& tensor) {
    return layout_of(tensor).is_replicated() ? begin_write(tensor)[0]
                                             : full_value(tensor);
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
        if (!is_global(tensor) || on_mesh(tensor) != layouts_[e]) {
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

  void finish() {
    for (ListArg& list : lists_) {
      if (!list.is_written) {
        continue;
      }
      for (size_t e = 0; e < list.tensors.size(); ++e) {
        const at::Tensor& tensor = list.tensors[e];
        if (!is_global(tensor)) {
          continue;
        }
        if (on_mesh(tensor) == layouts_[e] ||
            tensor.sizes() != lists_[0].tensors[e].sizes()) {
          end_write(tensor);
        } else {
          write_value(
              tensor,
              run_redistribution(
                  plan_redistribution(
                      layouts_[e],
                      Layout::replicated(mesh_),
                      {tensor.sizes().data(), tensor.sizes().size()},
                      tensor.itemsize()),
                  list.shards[e])[0]);
        }
      }
    }
    for (size_t p = 0; p < op_.params.size(); ++p) {
      const c10::IValue& value = stack_[base_ + p];
      if (value.isTensor() && op_.schema.params[p].is_written &&
          is_global(value.toTensor())) {
        end_write(value.toTensor());
      }
    }
    pack();
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

  at::Tensor pack_element(size_t e) {
    const at::Tensor first = results_[e][0];
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
    const std::vector<int64_t> strides = strides_in_order_of(
        {model.sizes().data(), model.sizes().size()},
        {model.strides().data(), model.strides().size()});
    return make_global(
        layout,
        model.sizes(),
        strides,
        first.scalar_type(),
        std::move(results_[e]));
  }

  const Op& op_;
  Stack& stack_;
  const size_t base_;
  const bool is_fused_ = op_.base_name.rfind("aten::_fused_", 0) == 0;
  std::vector<ListArg> lists_;
  Mesh mesh_;
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
  ForeachCall call(op, stack);
  if (!call.fits()) {
    return false;
  }
  call.run();
  return true;
}

}  // namespace torch_mesh

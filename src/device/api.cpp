// api.cpp: the functions of <torch_mesh/tensor.h>.

#include <torch_mesh/tensor.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_to_copy.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/full_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <torch_mesh/error.h>

#include "comm/fold.h"
#include "comm/host_read.h"
#include "comm/run_steps.h"
#include "core/shapes.h"
#include "dispatch/autograd_thread.h"
#include "run/noted_call.h"
#include "run/other_kinds.h"
#include "shard/joined.h"
#include "shard/local_ops.h"
#include "shard/replicate_value.h"
#include "shard/span.h"
#include "tensor/global_tensor.h"
#include "tensor/pending_sums.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A copy that nothing else refers to, and that is no part of something larger.
at::Tensor own_copy(const at::Tensor& shard) {
  return shard.clone(at::MemoryFormat::Preserve);
}

// `like`: strides of a tensor with as many dims, whose order the result has.
at::Tensor pack(
    const Layout& layout,
    c10::IntArrayRef sizes,
    c10::IntArrayRef like,
    Shards shards) {
  const std::vector<int64_t> strides =
      strides_in_order_of(as_span(sizes), as_span(like));
  for (Shard& shard : shards) {
    const std::vector<int64_t> local =
        strides_in_order_of(as_span(shard.sizes()), strides);
    if (shard.strides() != c10::IntArrayRef(local) ||
        shard.storage_offset() != 0) {
      shard = at::empty_strided(shard.sizes(), local, shard.local().options())
                  .copy_(shard.local());
    }
  }
  const c10::ScalarType dtype = shards.any().scalar_type();
  return make_global(layout, sizes, strides, dtype, std::move(shards));
}

// There are no sums of bools (law 8).
void check_summable(const Layout& layout, const at::Tensor& tensor) {
  TORCH_MESH_CHECK_VALUE(
      !layout.has_partial() || tensor.scalar_type() != at::kBool,
      "partial-dtype",
      "Layout: ",
      layout.str(),
      " is of a sum, and the tensor is of dtype bool.\n"
      "Hint: use R, or make it an integer tensor.");
}

void check_fits(const Layout& layout, const at::Tensor& tensor) {
  TORCH_MESH_CHECK_SUPPORTED(
      tensor.layout() == at::kStrided,
      "not-strided",
      CurrentOp::name(),
      ": the tensor is ",
      tensor.layout(),
      ", and only dense ones have shards.\nHint: x.to_dense(), or keep it a "
      "plain tensor.");
  check_is_strided(CurrentOp::name(), tensor);
  check_layout(layout, as_span(tensor.sizes()));
  check_summable(layout, tensor);
}

// Whether a shard lies in memory of one of `sources`, or is a part of a larger
// whole.
bool is_shared(const Shard& shard, const Shards& sources) {
  return !shard.is_all_of_its_memory() ||
         std::any_of(sources.begin(), sources.end(), [&](const Shard& source) {
           return shard.shares_memory_with(source);
         });
}

at::Tensor redistribute_now(const at::Tensor& tensor, const Layout& to) {
  return below_autograd("redistribute", [&] {
    check_fits(to, tensor);
    Shards moved = shards_in(tensor, to);
    const Shards* settled = settled_shards(tensor);
    const Shards shards = settled ? *settled : read(tensor);
    for (Shard& shard : moved) {
      if (is_shared(shard, shards)) {
        shard = own_copy(shard.local());
      }
    }
    return pack(to, tensor.sizes(), tensor.strides(), std::move(moved));
  });
}

Shards cut_plain(const at::Tensor& tensor, const Layout& layout) {
  const Layout whole = Layout::replicated(layout.mesh());
  return run_redistribution(
      plan_redistribution(
          whole, layout, as_span(tensor.sizes()), tensor.itemsize()),
      replicate_value(tensor, layout.mesh(), Copies::kElsewhere));
}

// The strides of one copy in one memory of which the shards can be slices, each
// of them dense: ops on them are then one local op (shard/joined.h). Nothing if
// there is no such copy.
std::optional<std::vector<int64_t>> strides_of_joined(
    const Layout& layout,
    const at::Tensor& tensor) {
  const std::optional<int64_t> dim = cut_dim(layout);
  if (!dim || *dim < 0 || layout.has_partial() || !layout.mesh().one_memory()) {
    return std::nullopt;
  }
  std::vector<int64_t> strides =
      strides_in_order_of(as_span(tensor.sizes()), as_span(tensor.strides()));
  return strides[*dim] * tensor.size(*dim) == tensor.numel()
             ? std::optional(std::move(strides))
             : std::nullopt;
}

at::Tensor distribute_now(const at::Tensor& tensor, const Layout& layout) {
  return below_autograd("distribute", [&] {
    check_fits(layout, tensor);
    note_distributed(tensor, layout);
    if (const auto strides = strides_of_joined(layout, tensor)) {
      const at::Tensor whole =
          at::empty_strided(
              tensor.sizes(),
              *strides,
              tensor.options().device(torch_device(layout.mesh().devices()[0])))
              .copy_(tensor);
      return make_global(
          layout,
          tensor.sizes(),
          *strides,
          tensor.scalar_type(),
          cut_plain(whole, layout));
    }
    Shards shards = cut_plain(tensor, layout);
    for (Shard& shard : shards) {
      shard = own_copy(shard.local());
    }
    return pack(layout, tensor.sizes(), tensor.strides(), std::move(shards));
  });
}

bool needs_gradient(const at::Tensor& tensor) {
  const bool needs = at::GradMode::is_enabled() && tensor.requires_grad();
  if (needs) {
    prepare_autograd();
  }
  return needs;
}

// Keeps a layout, its mesh with it, between forward and backward.
struct SavedLayout : torch::CustomClassHolder {
  explicit SavedLayout(Layout layout) : layout(std::move(layout)) {}
  const Layout layout;
};

struct Redistribute : torch::autograd::Function<Redistribute> {
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& tensor,
      const Layout& to) {
    context->saved_data["from"] = c10::IValue::make_capsule(
        c10::make_intrusive<SavedLayout>(
            layout_of(tensor).with_sums_reduced()));
    context->set_materialize_grads(false);
    return redistribute_now(tensor, to);
  }

  static variable_list backward(
      AutogradContext* context,
      variable_list gradients) {
    const at::Tensor& gradient = gradients[0];
    if (!gradient.defined() || !is_global(gradient)) {
      return {gradient, at::Tensor()};
    }
    // The gradient itself may be on no mesh yet: that of x.cpu() is.
    const auto saved = c10::static_intrusive_pointer_cast<SavedLayout>(
        context->saved_data["from"].toCapsule());
    const Layout& from = saved->layout;
    return {
        layout_of(gradient) == from ? gradient : redistribute(gradient, from),
        at::Tensor()};
  }
};

struct Distribute : torch::autograd::Function<Distribute> {
  static at::Tensor forward(
      AutogradContext* context,
      const at::Tensor& tensor,
      const Layout& layout) {
    context->saved_data["device"] = tensor.device();
    return distribute_now(tensor, layout);
  }

  static variable_list backward(
      AutogradContext* context,
      variable_list gradients) {
    return {gradients[0].to(context->saved_data["device"].toDevice()),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor distribute(const at::Tensor& tensor, const Layout& layout) {
  register_device();
  if (is_global(tensor)) {
    return redistribute(tensor, layout);
  }
  return needs_gradient(tensor) ? Distribute::apply(tensor, layout)
                                : distribute_now(tensor, layout);
}

at::Tensor redistribute(const at::Tensor& tensor, const Layout& layout) {
  TORCH_CHECK_VALUE(
      is_global(tensor),
      "redistribute: the tensor is on ",
      tensor.device(),
      ", not on the mesh.\nHint: use distribute. [not-global]");
  return needs_gradient(tensor) ? Redistribute::apply(tensor, layout)
                                : redistribute_now(tensor, layout);
}

at::Tensor full(const at::Tensor& tensor) {
  constexpr uint64_t kForwardLevel = 0;
  const bool is_recorded =
      needs_gradient(tensor) || tensor._fw_grad(kForwardLevel).defined();
  if (!is_global(tensor)) {
    return is_recorded ? tensor.clone() : tensor.detach().clone();
  }
  if (is_recorded) {
    const c10::Device first =
        torch_device(layout_of(tensor).mesh().devices()[0]);
    return at::_to_copy(tensor, tensor.options().device(first));
  }
  return below_autograd("full", [&] { return own_copy(host_value(tensor)); });
}

at::Tensor borrow(const at::Tensor& tensor, const Layout& layout) {
  register_device();
  return below_autograd("borrow", [&] {
    check_fits(layout, tensor);
    const at::Tensor plain = tensor.detach();
    Shards shards = cut_plain(plain, layout);
    const std::vector<int64_t> strides =
        strides_in_order_of(as_span(plain.sizes()), as_span(plain.strides()));
    const bool dense = plain.is_non_overlapping_and_dense();
    for (Shard& shard : shards) {
      if (!dense || !shard.is_contiguous()) {
        shard = shard.local().contiguous();
      }
    }
    at::Tensor result = make_global(
        layout,
        plain.sizes(),
        dense && layout.sharded_axes() == 0 ? plain.strides().vec() : strides,
        plain.scalar_type(),
        std::move(shards));
    MeshStorage::of(result)->borrow();
    return result;
  });
}

std::vector<at::Tensor> shards(const at::Tensor& tensor) {
  TORCH_CHECK_VALUE(
      is_global(tensor),
      "shards: the tensor is on ",
      tensor.device(),
      ", not on the mesh.\nHint: use distribute first. [not-global]");
  return below_autograd("shards", [&] {
    const auto [layout, held, generation] = torch_mesh::held(tensor);
    const Lanes& lanes = layout.lanes();
    std::vector<at::Tensor> result;
    for (int device = 0; device < layout.mesh().size(); ++device) {
      const int lane = lanes.lane_of_device[device];
      bool holds_value = true;
      for (int axis = 0; axis < layout.mesh().num_axes(); ++axis) {
        if (layout[axis].is_partial()) {
          const int first = layout.mesh().neighbour(device, axis, 0);
          holds_value &= first == device || lanes.lane_of_device[first] != lane;
        }
      }
      const at::Tensor& local = held[lane].local();
      if (!local.defined()) {
        result.emplace_back();  // another process has it
        continue;
      }
      result.push_back(
          holds_value ? local.detach().clone() : at::full_like(local, -0.0));
    }
    return result;
  });
}

namespace {

// The sizes of the shards of all devices, which are of one dtype and number of
// dims. Throws [shard-sizes], in each process.
std::vector<std::vector<int64_t>> check_shards(
    const Mesh& mesh,
    std::span<const at::Tensor> shards,
    int first) {
  std::vector<std::vector<int64_t>> facts(mesh.size());
  for (int device = 0; device < mesh.size(); ++device) {
    if (mesh.is_mine(device)) {
      const at::Tensor& shard = shards[device];
      TORCH_MESH_CHECK_VALUE(
          shard.dim() == shards[first].dim(),
          "shard-sizes",
          "from_shards: the shards of devices ",
          first,
          " and ",
          device,
          " are no parts of one tensor: ",
          c10::getDtypeNames(shards[first].scalar_type()).first,
          " with ",
          shards[first].dim(),
          " dims, and ",
          c10::getDtypeNames(shard.scalar_type()).first,
          " with ",
          shard.dim(),
          ".\nHint: give shards of one dtype and number of dims.");
      facts[device] = shard.sizes().vec();
      facts[device].push_back(static_cast<int64_t>(shard.scalar_type()));
    }
  }
  std::vector<std::vector<int64_t>> sizes = numbers_of_devices(mesh, facts);
  const int64_t dtype = sizes[0].back();
  for (int device = 0; device < mesh.size(); ++device) {
    TORCH_MESH_CHECK_VALUE(
        sizes[device].back() == dtype,
        "shard-sizes",
        "from_shards: the shards of devices 0 and ",
        device,
        " are no parts of one tensor: ",
        c10::getDtypeNames(static_cast<c10::ScalarType>(dtype)).first,
        " and ",
        c10::getDtypeNames(static_cast<c10::ScalarType>(sizes[device].back()))
            .first,
        ".\nHint: give shards of one dtype and number of dims.");
    sizes[device].pop_back();
  }
  return sizes;
}

}  // namespace

at::Tensor from_shards(
    std::span<const at::Tensor> shards,
    const Layout& layout) {
  register_device();
  return below_autograd("from_shards", [&] {
    const Mesh& mesh = layout.mesh();
    TORCH_MESH_CHECK_VALUE(
        static_cast<int>(shards.size()) == mesh.size(),
        "shard-sizes",
        "from_shards: ",
        shards.size(),
        " shards for a mesh of ",
        mesh.size(),
        " devices.\nHint: give one for each device, row-major.");
    int first = -1;  // device of this process
    for (int device = 0; device < mesh.size(); ++device) {
      const at::Tensor& shard = shards[device];
      const bool is_mine = mesh.is_mine(device);
      TORCH_MESH_CHECK_VALUE(
          shard.defined() || !is_mine,
          "shard-sizes",
          "from_shards: there is no shard for ",
          mesh.devices()[device].str(),
          ", a device of this process.\n"
          "Hint: leave out those of other processes alone.");
      if (!is_mine) {
        continue;
      }
      first = first < 0 ? device : first;
      TORCH_MESH_CHECK_VALUE(
          !is_global(shard),
          "shard-sizes",
          "from_shards: a shard is a global tensor itself.\n"
          "Hint: give plain tensors; torch_mesh.shards(x) has those of x.");
      check_is_strided(CurrentOp::name(), shard);
    }
    check_summable(layout, shards[first]);
    const std::vector<std::vector<int64_t>> sizes_of =
        check_shards(mesh, shards, first);
    // Sizes of the whole: sums along the axes that cut each dim.
    std::vector<int64_t> sizes = shards[first].sizes().vec();
    for (int axis = mesh.num_axes() - 1; axis >= 0; --axis) {
      if (layout[axis].is_shard()) {
        TORCH_MESH_CHECK_VALUE(
            layout[axis].dim < static_cast<int64_t>(sizes.size()),
            "layout-dim",
            "from_shards: the layout ",
            layout.str(),
            " shards dim ",
            layout[axis].dim,
            " of shards with ",
            sizes.size(),
            " dims.\nHint: name a dim that the tensor has.");
      }
    }
    for (size_t dim = 0; dim < sizes.size(); ++dim) {
      int64_t total = 0;
      for (int device = 0; device < mesh.size(); ++device) {
        bool counts = true;
        for (int axis = 0; axis < mesh.num_axes(); ++axis) {
          counts &= layout[axis].is_shard(static_cast<int64_t>(dim)) ||
                    mesh.coordinate(device, axis) == 0;
        }
        total += counts ? sizes_of[device][dim] : 0;
      }
      sizes[dim] = total;
    }
    const Lanes& lanes = layout.lanes();
    std::vector<std::vector<at::Tensor>> parts(lanes.num);
    std::vector<std::vector<int64_t>> places(lanes.num);
    for (int device = 0; device < mesh.size(); ++device) {
      const auto expected = shard_sizes(layout, sizes, device);
      TORCH_MESH_CHECK_VALUE(
          sizes_of[device] == expected,
          "shard-sizes",
          "from_shards: the shard of device ",
          device,
          " does not fit: ",
          c10::Join(",", sizes_of[device]),
          " != ",
          c10::Join(",", expected),
          ".\n  layout  ",
          layout.str(),
          "\nHint: uneven dims are cut in ceil-sized chunks, the last ones "
          "smaller.");
      if (!mesh.is_mine(device)) {
        continue;
      }
      const int lane = lanes.lane_of_device[device];
      if (parts[lane].empty() || layout.has_partial()) {
        bool counts = true;
        for (int axis = 0; axis < mesh.num_axes(); ++axis) {
          counts &= layout[axis].is_partial() || layout[axis].is_shard() ||
                    mesh.coordinate(device, axis) ==
                        mesh.coordinate(lanes.first_device[lane], axis);
        }
        if (counts) {
          parts[lane].push_back(
              shards[device].detach().to(torch_device(mesh.devices()[device])));
          places[lane].push_back(
              place_along(mesh, layout.partial_axes(), device));
        }
      }
    }
    Shards held(lanes.num);
    for (const int lane : lanes.mine) {
      std::vector<at::Tensor>& group = parts[lane];
      group[0] = own_copy(group[0]);
      held[lane] = sum_of({group, places[lane]});
    }
    const bool rows =
        std::all_of(held.begin(), held.end(), [](const Shard& shard) {
          return shard.is_contiguous();
        });
    const std::vector<int64_t> like =
        rows ? contiguous_strides(sizes) : held.any().strides().vec();
    return pack(layout, sizes, like, std::move(held));
  });
}

void reduce_partials(std::span<const at::Tensor> tensors) {
  below_autograd("reduce_partials", [&] {
    std::vector<const at::Tensor*> all;
    for (const at::Tensor& tensor : tensors) {
      all.push_back(&tensor);
    }
    reduce_pending(all);
    return 0;
  });
}

}  // namespace torch_mesh

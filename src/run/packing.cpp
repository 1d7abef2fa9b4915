// packing.cpp: what local results do not show of the whole.

#include "run/packing.h"

#include <algorithm>
#include <numeric>

#include <ATen/OpMathType.h>

#include <torch_mesh/error.h>

#include "shard/joined.h"
#include "shard/slice.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {

namespace {

// Of tensors with elements: equal, where a dim has more than one.
bool agree(const Shard& shard, const std::vector<int64_t>& strides) {
  for (int64_t d = 0; d < shard.dim() && shard.numel() != 0; ++d) {
    if (shard.size(d) > 1 && shard.stride(d) != strides[d]) {
      return false;
    }
  }
  return true;
}

// Gives the shards the strides that follow from what torch said of the whole;
// false if a kernel has laid them out in another way.
bool take_known_strides(
    const LoweredPlan::Output& output,
    Shards& shards,
    bool is_joined) {
  if (output.strides.empty()) {
    return false;
  }
  bool all_agree = true;
  for (size_t i = 0; i < shards.size(); ++i) {
    all_agree = all_agree && (!shards[i].defined() ||
                              agree(shards[i], output.shard_strides[i]));
  }
  if (!all_agree && !output.is_certain) {
    return false;
  }
  // Slices of one result have its strides.
  for (size_t i = 0; i < shards.size() && !(is_joined && all_agree); ++i) {
    if (shards[i].defined()) {
      shards[i] = with_strides(shards[i].local(), output.shard_strides[i]);
    }
  }
  return true;
}

// Dense, and in the order of a shard; of equal strides the later dim lies
// within.
std::vector<int64_t> strides_of_whole(
    const std::vector<int64_t>& sizes,
    const Shard& shard) {
  if (shard.is_contiguous()) {
    return contiguous_strides(sizes);
  }
  std::vector<int64_t> inner_first(sizes.size());
  std::iota(inner_first.rbegin(), inner_first.rend(), 0);
  std::stable_sort(
      inner_first.begin(), inner_first.end(), [&](int64_t a, int64_t b) {
        return shard.stride(a) < shard.stride(b);
      });
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (const int64_t d : inner_first) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return strides;
}

}  // namespace

bool shows_order(
    const Plan::Output& output,
    const std::vector<std::vector<int64_t>>& local_sizes) {
  if (output.layout.sharded_axes() == 0 || output.layout.mesh().is_all_mine() ||
      std::ranges::all_of(local_sizes, [&](const std::vector<int64_t>& local) {
        return local == local_sizes[0];
      })) {
    return true;
  }
  for (const std::vector<int64_t>& local : local_sizes) {
    for (size_t d = 0; d < output.sizes.size(); ++d) {
      if (local[d] <= 1 && output.sizes[d] > 1) {
        return false;
      }
    }
  }
  return true;
}

at::Tensor make_result(
    const LoweredPlan& plan,
    size_t o,
    const Layout& layout,
    Shards shards,
    bool is_joined) {
  const Shard first = shards.any();
  const c10::ScalarType dtype = first.scalar_type();
  if (plan.plan.kind != Plan::Kind::kLocal) {
    return make_global(
        layout, first.sizes(), first.strides(), dtype, std::move(shards));
  }
  const std::vector<int64_t>& sizes = plan.plan.outputs[o].sizes;
  const LoweredPlan::Output& output = plan.outputs[o];
  if (take_known_strides(output, shards, is_joined)) {
    return make_global(layout, sizes, output.strides, dtype, std::move(shards));
  }
  if (layout.sharded_axes() == 0 ||
      (layout.mesh().is_all_mine() &&
       first.sizes() == c10::IntArrayRef(sizes))) {
    return make_global(
        layout, sizes, first.strides(), dtype, std::move(shards));
  }
  if (!shows_order(plan.plan.outputs[o], output.local_sizes)) {
    // An order that all processes come to by themselves.
    const std::vector<int64_t> strides = contiguous_strides(sizes);
    for (Shard& shard : shards) {
      shard = in_order(shard.local(), strides);
    }
    return make_global(layout, sizes, strides, dtype, std::move(shards));
  }
  const std::vector<int64_t> strides =
      is_joined ? strides_in_order_of(sizes, as_span(first.strides()))
                : strides_of_whole(sizes, first);
  if (output.hides_order && !is_joined) {
    for (Shard& shard : shards) {
      shard = in_order(shard.local(), strides);
    }
  }
  return make_global(layout, sizes, strides, dtype, std::move(shards));
}

Shards dense_as(
    const at::Tensor& tensor,
    bool must_be_dense,
    bool joins,
    Shards shards) {
  const bool has_one =
      std::any_of(tensor.sizes().begin(), tensor.sizes().end(), [](int64_t d) {
        return d == 1;
      });
  if (!must_be_dense && tensor.is_contiguous() && !has_one) {
    return shards;
  }
  auto wished = [&](const at::Tensor& local) {
    return must_be_dense || local.is_non_overlapping_and_dense() ||
                   !is_in_order(local, tensor.strides())
               ? in_order(local, tensor.strides())
               : local;
  };
  if (joins) {
    if (const std::optional<at::Tensor> joined = join_shards(shards, 0)) {
      const at::Tensor whole = wished(*joined);
      if (whole.stride(0) * whole.size(0) == whole.numel()) {
        int64_t begin = 0;
        for (Shard& shard : shards) {
          const int64_t length = shard.size(0);
          shard = slice_of(whole, 0, begin, length);
          begin += length;
        }
        return shards;
      }
    }
  }
  for (Shard& shard : shards) {
    shard = wished(shard.local());
  }
  return shards;
}

void round_to(at::ScalarType dtype, Shards& results) {
  for (Shard& result : results) {
    if (result.scalar_type() == at::toOpMathType(dtype)) {
      result = result.local().to(dtype);
    }
  }
}

Shards slices_of(const at::Tensor& whole, const LoweredPlan::Output& output) {
  Shards slices;
  int64_t begin = 0;
  for (int lane : output.lane_of_shard) {
    const int64_t length = output.local_sizes[lane][output.cut_dim];
    slices.push_back(slice_of(whole, output.cut_dim, begin, length));
    begin += length;
  }
  return slices;
}

void raise_size_mismatch(
    size_t output,
    const std::string& context,
    c10::IntArrayRef local,
    c10::IntArrayRef planned,
    const Plan& plan) {
  detail::raise(
      ErrorKind::kBug,
      "bug",
      "torch_mesh bug: output ",
      output,
      " of ",
      context,
      " has sizes ",
      c10::str(local),
      " on a lane, its plan says ",
      c10::str(planned),
      ".\n  plan  ",
      plan.str());
}

void make_dense(Shards& results, bool side_by_side) {
  for (Shard& result : results) {
    if (!result.is_dense() || (result.storage_offset() != 0 && !side_by_side)) {
      result = result.local().clone();
    }
  }
}

bool lies_in(const Shard& result, const Shards& shards) {
  return std::any_of(shards.begin(), shards.end(), [&](const Shard& shard) {
    return shard.shares_memory_with(result);
  });
}

bool repeats_nothing(const Shard& result) {
  if (result.numel() == 0) {
    return false;
  }
  for (int64_t d = 0; d < result.dim(); ++d) {
    if (result.size(d) > 1 && result.stride(d) == 0) {
      return false;
    }
  }
  return true;
}

at::Tensor make_with_gaps(const Layout& layout, Shards results) {
  const Shard first = results.any();
  const int64_t size =
      static_cast<int64_t>(first.local().storage().nbytes()) / first.itemsize();
  Shards flat = results;
  for (Shard& result : flat) {
    result = result.local().as_strided({size}, {1}, 0);
  }
  const at::Tensor base =
      make_global(layout, {size}, {1}, first.scalar_type(), std::move(flat));
  return make_view(
      base.storage(),
      layout,
      first.sizes(),
      first.strides(),
      first.storage_offset(),
      first.scalar_type(),
      std::move(results),
      meta_of(base).origin(),
      /*is_write_back=*/false,
      base.is_inference());
}

void take_size(
    const at::Tensor& destination,
    const Shards& written,
    const Mesh& mesh) {
  Shards shards = written;
  own(shards);
  const Shard first = shards.any();
  become(
      destination,
      make_global(
          Layout::replicated(mesh),
          first.sizes(),
          first.strides(),
          first.scalar_type(),
          std::move(shards)));
}

}  // namespace torch_mesh

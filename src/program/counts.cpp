// counts.cpp: histograms, counts and comparisons of whole tensors, which begin
// with something that only values say: ask for the range or the size, then let
// every device count.

#include <tuple>

#include <ATen/Functions.h>
#include <torch/library.h>

#include "program/programs.h"
#include "run/local_kernel.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

// The smallest and the largest element, for the host: of each shard, then of
// those. NaN where there is one.
std::pair<c10::Scalar, c10::Scalar> range_of(const Tensor& self) {
  if (!is_global(self) || layout_of(self).has_partial() ||
      !layout_of(self).mesh().is_all_mine()) {
    const auto [least, most] = at::aminmax(self);
    return {least.item(), most.item()};
  }
  const LocalOps local;
  const Shards shards = read(self);
  std::vector<Tensor> least;
  std::vector<Tensor> most;
  for (const Shard& shard : shards) {
    if (shard.numel() > 0) {
      const auto [low, high] = at::aminmax(shard.local());
      least.push_back(low.cpu());
      most.push_back(high.cpu());
    }
  }
  return {at::stack(least).min().item(), at::stack(most).max().item()};
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def(
      "histogram(Tensor self, int bins, Scalar min, Scalar max) -> Tensor");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("histogram", torch::dispatch(key, TORCH_FN(histogram)));
  }
}

}  // namespace

// Where min and max are equal, the range is that of all values.
bool histc(const CallArgs& args) {
  static const Op& counting = op_named("torch_mesh::histogram", "");
  const Tensor self = args.tensor("self");
  c10::Scalar min = args["min"].toScalar();
  c10::Scalar max = args["max"].toScalar();
  if (min.toDouble() == max.toDouble() && self.numel() > 0) {
    std::tie(min, max) = range_of(self);
  }
  Stack count{self, args["bins"], min, max};
  run_op(counting, count);
  return args.give(count[0]);
}

bool bincount(const CallArgs& args) {
  const Tensor self = args.tensor("self");
  const auto weights = args.optional_tensor("weights");
  int64_t size = args["minlength"].toInt();
  if (self.numel() > 0) {
    const auto [least, most] = range_of(self);
    TORCH_CHECK(
        least.to<int64_t>() >= 0,
        "bincount only supports 1-d non-negative integral inputs.");
    size = std::max(size, most.to<int64_t>() + 1);
  }
  const bool counts = !weights || self.numel() == 0;
  const c10::ScalarType dtype = counts ? at::kLong
                                : weights->scalar_type() == at::kFloat
                                    ? at::kFloat
                                    : at::kDouble;
  const Tensor ones = counts
                          ? at::ones({}, at::dtype(dtype)).expand(self.sizes())
                          : weights->to(dtype);
  const Tensor none = at::zeros({size}, at::dtype(dtype));
  return args.give(at::index_add(none, 0, self.to(at::kLong), ones));
}

bool equal(const CallArgs& args) {
  const Tensor self = args.tensor("self");
  const Tensor other = args.tensor("other");
  return args.give(
      self.sizes() == other.sizes() &&
      at::all(at::eq(self, other)).item<bool>());
}

}  // namespace torch_mesh::programs

// counts.cpp: ask for the range or the size, then let every device count.

#include "dispatch/counts.h"

#include <map>
#include <tuple>

#include <ATen/Functions.h>
#include <torch/library.h>

#include "dispatch/program.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

using at::Tensor;

Tensor histogram(
    const Tensor& self,
    int64_t bins,
    const c10::Scalar& min,
    const c10::Scalar& max) {
  const c10::ScalarType dtype = self.scalar_type();
  if (!self.is_cpu() || !c10::isIntegralType(dtype, /*includeBool=*/false)) {
    return at::histc(self, bins, min, max);
  }
  // Products and quotients of these integers are exact enough in double that
  // each falls into the bin that integer arithmetic gives.
  return at::histc(
             self.to(at::kDouble), bins, min.to<int64_t>(), max.to<int64_t>())
      .to(dtype);
}

// The smallest and the largest element, for the host: of each shard, then of
// those. NaN where there is one.
std::pair<c10::Scalar, c10::Scalar> range_of(const Tensor& self) {
  if (!is_global(self) || layout_of(self).has_partial()) {
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

// Where min and max are equal, the range is that of all values.
void histc(const Op& op, Stack& stack) {
  static const Op& counting = op_named("torch_mesh::histogram", "");
  const ProgramArgs args(op, stack);
  const Tensor self = args.tensor("self");
  c10::Scalar min = args["min"].toScalar();
  c10::Scalar max = args["max"].toScalar();
  if (min.toDouble() == max.toDouble() && self.numel() > 0) {
    std::tie(min, max) = range_of(self);
  }
  Stack count{self, args["bins"], min, max};
  run_op(counting, count);
  args.give({count[0]});
}

void bincount(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
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
  args.give({at::index_add(none, 0, self.to(at::kLong), ones)});
}

void equal(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const Tensor self = args.tensor("self");
  const Tensor other = args.tensor("other");
  args.give(
      {self.sizes() == other.sizes() &&
       at::all(at::eq(self, other)).item<bool>()});
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def(
      "histogram(Tensor self, int bins, Scalar min, Scalar max) -> Tensor");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("histogram", torch::dispatch(key, TORCH_FN(histogram)));
  }
}

}  // namespace

void run_histc(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  args.give(
      {histogram(
          args.tensor("self"),
          args["bins"].toInt(),
          args["min"].toScalar(),
          args["max"].toScalar())});
}

Rewrite rewrite_of_count(const Op& op) {
  static const auto* table = new std::map<std::string, Rewrite>{
      {"aten::bincount", bincount},
      {"aten::equal", equal},
      {"aten::histc", histc},
  };
  auto found = table->find(op.schema.name);
  return found == table->end() ? nullptr : found->second;
}

}  // namespace torch_mesh

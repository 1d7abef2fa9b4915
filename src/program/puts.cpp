// puts.cpp: writes at places that other tensors name, along a dim that is
// sharded: every device writes what it holds (places.cpp).

#include <ATen/Functions.h>

#include "program/places.h"
#include "program/programs.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

// What an op writes to: its argument, or a copy for the result. torch makes
// that in the order of its argument for index_put and index_fill, in the usual
// order for all others.
Tensor destination(const CallArgs& args) {
  const Tensor self = args.tensor("self");
  if (args.op.schema.params[0].is_written) {
    return self;
  }
  const std::string& name = args.op.base_name;
  const bool keeps_order =
      name.ends_with("index_put") || name == "aten::index_fill";
  return at::clone(
      self,
      keeps_order ? at::MemoryFormat::Preserve : at::MemoryFormat::Contiguous);
}

void put_at(
    const Tensor& self,
    const Indices& indices,
    const Tensor& values,
    bool accumulate,
    bool from_end) {
  static const Op& op = op_named("torch_mesh::put_at_", "");
  Stack stack{self,
              indices,
              values,
              accumulate,
              std::vector<int64_t>(self.dim(), 0),
              self.sizes().vec(),
              from_end};
  run_op(op, stack);
}

// An index for one dim only.
Indices along(int64_t dim, const Tensor& index) {
  Indices indices;
  for (int64_t d = 0; d < dim; ++d) {
    indices.push_back(std::nullopt);
  }
  indices.push_back(index);
  return indices;
}

int64_t dim_of(const CallArgs& args) {
  return c10::maybe_wrap_dim(args["dim"].toInt(), args.tensor("self").dim());
}

// A value that does not differ between the elements that a mask names is put
// there element by element. False if this one does.
bool put_by_mask(
    const Tensor& self,
    const Indices& indices,
    const Tensor& values) {
  int64_t dim = 0;
  while (!is_there(indices.get(dim))) {
    ++dim;
  }
  Tensor mask = *indices.get(dim);
  for (size_t d = dim + 1; d < indices.size(); ++d) {
    if (is_there(indices.get(d))) {
      return false;
    }
  }
  const int64_t num_after = self.dim() - dim - mask.dim();
  std::vector<int64_t> sizes = values.sizes().vec();
  if (mask.dim() > 0 && values.dim() > num_after) {
    const auto at = sizes.end() - 1 - num_after;
    if (*at != 1) {
      return false;
    }
    sizes.insert(at, mask.dim() - 1, 1);
  }
  std::vector<int64_t> mask_sizes = mask.sizes().vec();
  mask_sizes.insert(mask_sizes.end(), num_after, 1);
  mask = at::reshape(mask.to(at::kBool), mask_sizes);
  if (values.numel() == 1) {
    self.masked_fill_(mask, at::reshape(values, {}));
  } else {
    self.copy_(at::where(mask, at::reshape(values, sizes), self));
  }
  return true;
}

}  // namespace

bool index_put(const CallArgs& args) {
  const Indices indices = indices_of(args["indices"]);
  const Tensor values = args.tensor("values");
  const bool accumulate = args["accumulate"].toBool();
  const Tensor self = destination(args);
  if (!has_masks(indices)) {
    put_at(self, indices, values, accumulate, /*from_end=*/true);
    return args.give(self);
  }
  check_masks(self, indices);
  if (accumulate || !put_by_mask(self, indices, values)) {
    self.index_put_(without_masks(self, indices), values, accumulate);
  }
  return args.give(self);
}

bool index_add(const CallArgs& args) {
  Tensor source = args.tensor("source");
  const c10::Scalar alpha = args["alpha"].toScalar();
  if (!alpha.equal(1)) {
    source = at::mul(source, alpha);
  }
  const Tensor self = destination(args);
  put_at(
      self,
      along(dim_of(args), args.tensor("index")),
      source,
      /*accumulate=*/true,
      /*from_end=*/false);
  return args.give(self);
}

bool index_copy(const CallArgs& args) {
  const Tensor self = destination(args);
  put_at(
      self,
      along(dim_of(args), args.tensor("index")),
      args.tensor("source"),
      /*accumulate=*/false,
      /*from_end=*/false);
  return args.give(self);
}

bool index_fill(const CallArgs& args) {
  const Tensor self = destination(args);
  const c10::IValue& value = args["value"];
  put_at(
      self,
      along(dim_of(args), args.tensor("index")),
      value.isTensor()
          ? value.toTensor().to(self.scalar_type())
          : at::full({}, value.toScalar(), at::dtype(self.scalar_type())),
      /*accumulate=*/false,
      /*from_end=*/true);
  return args.give(self);
}

// All scatters: of a tensor or a number, with a way to reduce or without.
bool scatter(const CallArgs& args) {
  static const Op& put_along = op_named("torch_mesh::put_along_", "");
  const Tensor self = destination(args);
  const Tensor index = args.tensor("index");
  const Tensor src =
      args.has("src")
          ? args.tensor("src")
          : at::full(
                {}, args["value"].toScalar(), at::dtype(self.scalar_type()))
                .expand(index.sizes());
  const std::string reduce =
      args.has("reduce") ? args["reduce"].toStringRef()
      : args.op.base_name.find("scatter_add") != std::string::npos ? "add"
                                                                   : "";
  const bool include_self =
      !args.has("include_self") || args["include_self"].toBool();
  const int64_t dim = dim_of(args);
  Stack put{self,
            dim,
            index,
            src,
            reduce,
            include_self,
            /*begin=*/int64_t{0},
            self.size(dim)};
  run_op(put_along, put);
  return args.give(self);
}

}  // namespace torch_mesh::programs

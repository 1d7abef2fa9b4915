// picks.cpp: rows by number, where each device holds some of the rows: it picks
// what it holds and leaves -0.0 for the rest, which changes no sum.
//
// The two ops that this file adds run on a device's shard. `begin` is the
// number of the first row that it holds, which the rule makes local ("shifts"),
// and `size` the number of rows of the whole: an index beyond it is nobody's,
// and an error.

#include <limits>

#include <ATen/Functions.h>
#include <torch/library.h>

#include "program/places.h"
#include "program/programs.h"
#include "run/stand_ins.h"
#include "tensor/global_tensor.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

constexpr int64_t kNone = std::numeric_limits<int64_t>::min();

// An index that names no row of the whole, or kNone.
int64_t stray_index(const Tensor& index, int64_t size) {
  if (index.numel() == 0) {
    return kNone;
  }
  const auto [least, most] = at::aminmax(index);
  const auto first = least.item<int64_t>();
  const auto last = most.item<int64_t>();
  return first < 0 ? first : last >= size ? last : kNone;
}

// Where an index meets a row of this shard, and the number of that row in it.
struct Mine {
  Mine(const Tensor& index, int64_t begin, int64_t length)
      : others(
            at::logical_or(
                at::lt(index, begin),
                at::ge(index, begin + length))),
        rows(at::masked_fill(at::sub(index, begin), others, 0)) {}

  Tensor others;
  Tensor rows;
};

// self [v, x*], index [i] -> [i, x*]
Tensor pick_rows(
    const Tensor& self,
    const Tensor& index,
    int64_t begin,
    int64_t size) {
  const int64_t stray = stray_index(index, size);
  TORCH_CHECK_INDEX(
      stray == kNone,
      "index out of range in self: index ",
      stray,
      " is out of bounds for dimension 0 with size ",
      size);
  const int64_t length = self.size(0);
  std::vector<int64_t> sizes = self.sizes().vec();
  sizes[0] = index.size(0);
  if (length == 0) {
    return at::full(sizes, -0.0, self.options());
  }
  const Mine mine(index, begin, length);
  std::vector<int64_t> column(self.dim(), 1);
  column[0] = index.size(0);
  return at::index_select(self, 0, mine.rows)
      .masked_fill_(at::reshape(mine.others, column), -0.0);
}

// self [v, x*], index [i, x*] -> [i, x*]
Tensor pick_along(
    const Tensor& self,
    const Tensor& index,
    int64_t begin,
    int64_t size) {
  const int64_t stray = stray_index(index, size);
  TORCH_CHECK(
      stray == kNone,
      "index ",
      stray,
      " is out of bounds for dimension 0 with size ",
      size);
  const int64_t length = self.size(0);
  if (length == 0) {
    return at::full(index.sizes(), -0.0, self.options());
  }
  const Mine mine(index, begin, length);
  return at::gather(self, 0, mine.rows).masked_fill_(mine.others, -0.0);
}

Tensor call_pick(const char* name, const Tensor& self, const Tensor& index) {
  if (self.scalar_type() == at::kBool) {
    // There are no sums of bools.
    return call_pick(name, self.to(at::kByte), index).to(at::kBool);
  }
  const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow(name, "")
          .typed<Tensor(const Tensor&, const Tensor&, int64_t, int64_t)>();
  return op.call(self, index, 0, self.size(0));
}

Tensor rows_of(const Tensor& self, const Tensor& index) {
  return call_pick("torch_mesh::pick_rows", self, index);
}

// The same elements with these strides, which also say how dims of size 1 lie.
Tensor with_all_strides(
    const Tensor& tensor,
    const std::vector<int64_t>& strides) {
  if (tensor.strides() == strides) {
    return tensor;
  }
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1 && tensor.stride(d) != strides[d]) {
      return at::empty_strided(tensor.sizes(), strides, tensor.options())
          .copy_(tensor);
    }
  }
  return make_global(
      layout_of(tensor),
      tensor.sizes(),
      strides,
      tensor.scalar_type(),
      read(tensor));
}

Tensor contiguous(const Tensor& tensor) {
  return with_all_strides(
      tensor.contiguous(), contiguous_strides(tensor.sizes().vec()));
}

// The rows of dim `dim` that an index of any shape names, in the index's place.
Tensor rows_along(const Tensor& self, int64_t dim, const Tensor& index) {
  const Tensor rows =
      rows_of(at::movedim(self, dim, 0), at::reshape(index, {-1}));
  const Tensor there = at::movedim(rows, 0, dim);
  std::vector<int64_t> sizes = there.sizes().vec();
  sizes.erase(sizes.begin() + dim);
  sizes.insert(sizes.begin() + dim, index.sizes().begin(), index.sizes().end());
  return contiguous(at::reshape(there.contiguous(), sizes));
}

// `result` as torch lays out self[indices].
Tensor laid_out(
    const Tensor& self,
    const Indices& indices,
    const Tensor& result) {
  return with_all_strides(
      result, index_on_meta(self, indices)->strides().vec());
}

Tensor picked_by_several(const Tensor& self, const Indices& indices) {
  const bool is_bool = self.scalar_type() == at::kBool;
  const Tensor result = pick_at(is_bool ? self.to(at::kByte) : self, indices);
  return is_bool ? result.to(at::kBool) : result;
}

int64_t dim_of(const CallArgs& args) {
  const int64_t dim = args["dim"].toInt();
  return dim < 0 ? dim + args.tensor("self").dim() : dim;
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  for (const char* name : {"pick_rows", "pick_along"}) {
    const std::string schema =
        std::string(name) +
        "(Tensor self, Tensor index, int begin, int size) -> Tensor";
    library.def(schema.c_str());
  }
  // Not for all backends at once, or the mesh would have a kernel without rule.
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("pick_rows", torch::dispatch(key, TORCH_FN(pick_rows)));
    library.impl("pick_along", torch::dispatch(key, TORCH_FN(pick_along)));
  }
}

}  // namespace

bool embedding(const CallArgs& args) {
  return args.give(
      rows_along(args.tensor("weight"), 0, args.tensor("indices")));
}

bool index_select(const CallArgs& args) {
  const Tensor self = args.tensor("self");
  return args.give(rows_along(self, dim_of(args), args.tensor("index")));
}

bool gather(const CallArgs& args) {
  Tensor self = args.tensor("self");
  const Tensor index = args.tensor("index");
  const int64_t dim = dim_of(args);
  for (int64_t d = 0; d < self.dim(); ++d) {
    if (d != dim && self.size(d) != index.size(d)) {
      self = at::narrow(self, d, 0, index.size(d));
    }
  }
  const Tensor picked = call_pick(
      "torch_mesh::pick_along",
      at::movedim(self, dim, 0),
      at::movedim(index, dim, 0));
  return args.give(contiguous(at::movedim(picked, 0, dim)));
}

// x[..., i, ...], of which the numbers may count from the end.
bool index(const CallArgs& args) {
  const Tensor self = args.tensor("self");
  const Indices indices = indices_of(args["indices"]);
  if (has_masks(indices)) {
    args["indices"] = without_masks(self, indices);
    run_op(args.op, args.stack);
    return true;
  }
  std::vector<int64_t> dims;
  for (size_t d = 0; d < indices.size(); ++d) {
    if (indices.get(d) && indices.get(d)->defined()) {
      dims.push_back(static_cast<int64_t>(d));
    }
  }
  if (dims.size() > 1) {
    return args.give(laid_out(self, indices, picked_by_several(self, indices)));
  }
  const Tensor index = *indices.get(dims[0]);
  const Tensor counted =
      at::where(at::lt(index, 0), at::add(index, self.size(dims[0])), index);
  const Tensor result = rows_along(self, dims[0], counted);
  // Strides of dims of size 1 count too.
  const bool is_usual =
      self.strides() == contiguous_strides(self.sizes().vec());
  return args.give(is_usual ? result : laid_out(self, indices, result));
}

}  // namespace torch_mesh::programs

// places.cpp: find the places that are mine, and pick or write there.
//
// The ops of this file run on a device's shard. `begin` is where its part of a
// dim begins, which the rule makes local, and `size` the length of the whole
// dim: an index beyond it is nobody's, and an error.

#include "program/places.h"

#include <limits>

#include <ATen/ExpandUtils.h>
#include <ATen/Functions.h>
#include <torch/library.h>

#include "dispatch/ops.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

// Which indexed elements this shard holds, and where in it.
struct Places {
  Places(
      const Tensor& self,
      const Indices& indices,
      c10::IntArrayRef begin,
      c10::IntArrayRef size,
      bool from_end) {
    for (size_t d = 0; d < indices.size(); ++d) {
      if (is_there(indices.get(d))) {
        const auto dim = static_cast<int64_t>(d);
        add(*indices.get(d), dim, begin[d], self.size(dim), size[d], from_end);
      }
    }
    numbers = at::broadcast_tensors(numbers);
    if (others.defined()) {
      others = others.expand_as(numbers[0]);
    }
    // Where the dims of the index go: where the indexed dims were, if those
    // stand side by side, else to the front.
    const int64_t last = dims.back();
    const bool side_by_side =
        last - dims.front() + 1 == static_cast<int64_t>(dims.size());
    first = side_by_side ? dims.front() : 0;
    sizes = self.sizes().vec();
    for (auto dim = dims.rbegin(); dim != dims.rend(); ++dim) {
      sizes.erase(sizes.begin() + *dim);
    }
    sizes.insert(
        sizes.begin() + first,
        numbers[0].sizes().begin(),
        numbers[0].sizes().end());
  }

  void add(
      Tensor index,
      int64_t dim,
      int64_t begin,
      int64_t length,
      int64_t size,
      bool from_end) {
    if (index.numel() > 0) {
      const auto [least, most] = at::aminmax(index);
      const auto lowest = least.item<int64_t>();
      const auto highest = most.item<int64_t>();
      const bool strays = lowest < (from_end ? -size : 0) || highest >= size;
      TORCH_CHECK_INDEX(
          !strays,
          "index ",
          highest >= size ? highest : lowest,
          " is out of bounds for dimension ",
          dim,
          " with size ",
          size);
      if (lowest < 0) {
        index = at::where(at::lt(index, 0), at::add(index, size), index);
      }
    }
    dims.push_back(dim);
    if (length == size) {
      numbers.push_back(index);
      return;
    }
    const Tensor strange =
        at::logical_or(at::lt(index, begin), at::ge(index, begin + length));
    others = others.defined() ? at::logical_or(others, strange) : strange;
    numbers.push_back(at::sub(index, begin));
  }

  // self[...] with these for the indexed dims.
  Indices as_indices(const std::vector<Tensor>& some) const {
    Indices indices;
    for (int64_t d = 0, next = 0; d <= dims.back(); ++d) {
      if (dims[next] == d) {
        indices.push_back(some[next++]);
      } else {
        indices.push_back(std::nullopt);
      }
    }
    return indices;
  }

  std::vector<int64_t> dims;    // that are indexed
  std::vector<Tensor> numbers;  // one for each, all of the same sizes
  Tensor others;                // true where another holds it; undefined: none
  int64_t first = 0;            // where the dims of the index go
  std::vector<int64_t> sizes;   // of self[indices]
};

Tensor pick_local(
    const Tensor& self,
    const Indices& indices,
    c10::IntArrayRef begin,
    c10::IntArrayRef size) {
  const Places places(self, indices, begin, size, /*from_end=*/true);
  if (!places.others.defined()) {
    return at::index(self, places.as_indices(places.numbers));
  }
  if (self.numel() == 0) {
    return at::full(places.sizes, -0.0, self.options());
  }
  std::vector<Tensor> numbers;
  for (const Tensor& number : places.numbers) {
    numbers.push_back(at::masked_fill(number, places.others, 0));
  }
  std::vector<int64_t> column(places.sizes.size(), 1);
  std::copy(
      places.others.sizes().begin(),
      places.others.sizes().end(),
      column.begin() + places.first);
  return at::index(self, places.as_indices(numbers))
      .masked_fill_(at::reshape(places.others, column), -0.0);
}

Tensor& put_local(
    Tensor& self,
    const Indices& indices,
    const Tensor& values,
    bool accumulate,
    c10::IntArrayRef begin,
    c10::IntArrayRef size,
    bool from_end) {
  const Places places(self, indices, begin, size, from_end);
  if (!places.others.defined()) {
    return self.index_put_(
        places.as_indices(places.numbers), values, accumulate);
  }
  const Tensor mine =
      at::nonzero(at::logical_not(places.others).reshape({-1})).squeeze(1);
  if (mine.numel() == 0) {
    return self;
  }
  std::vector<Tensor> numbers;
  for (const Tensor& number : places.numbers) {
    numbers.push_back(number.reshape({-1}).index_select(0, mine));
  }
  Tensor rows = values;
  if (values.numel() != 1) {
    rows = values.expand(places.sizes);
    const int64_t num_dims = places.others.dim();
    rows = num_dims == 0
               ? rows.unsqueeze(places.first)
               : rows.flatten(places.first, places.first + num_dims - 1);
    rows = rows.index_select(places.first, mine);
  }
  return self.index_put_(places.as_indices(numbers), rows, accumulate);
}

// `reduce`: "" to overwrite, "add" and "multiply" as scatter takes them, or a
// word of scatter_reduce.
void scatter_flat(
    const Tensor& flat,
    const Tensor& places,
    const Tensor& src,
    c10::string_view reduce,
    bool include_self) {
  if (reduce.empty()) {
    flat.scatter_(0, places, src);
  } else if (reduce == "add" || (reduce == "sum" && include_self)) {
    flat.scatter_add_(0, places, src);
  } else if (reduce == "multiply") {
    flat.scatter_(0, places, src, reduce);
  } else {
    flat.scatter_reduce_(0, places, src, reduce, include_self);
  }
}

Tensor& put_along_local(
    Tensor& self,
    int64_t dim,
    const Tensor& index,
    const Tensor& src,
    c10::string_view reduce,
    bool include_self,
    int64_t begin,
    int64_t size) {
  if (index.numel() == 0) {
    return self;
  }
  const auto [least, most] = at::aminmax(index);
  const auto lowest = least.item<int64_t>();
  const auto highest = most.item<int64_t>();
  TORCH_CHECK(
      lowest >= 0 && highest < size,
      "index ",
      highest >= size ? highest : lowest,
      " is out of bounds for dimension ",
      dim,
      " with size ",
      size);
  const Tensor is_mine = at::logical_and(
      at::ge(index, begin), at::lt(index, begin + self.size(dim)));
  const Tensor mine = at::nonzero(is_mine.reshape({-1})).squeeze(1);
  if (mine.numel() == 0) {
    return self;
  }
  // Places in the shard, laid flat.
  Tensor places = at::sub(index, begin).to(at::kLong);
  int64_t stride = 1;
  Tensor rest;
  for (int64_t d = self.dim() - 1; d >= 0; --d) {
    if (d == dim) {
      places = at::mul(places, stride);
    } else {
      std::vector<int64_t> column(self.dim(), 1);
      column[d] = index.size(d);
      const Tensor along =
          at::arange(index.size(d), places.options()).mul_(stride).view(column);
      rest = rest.defined() ? at::add(rest, along) : along;
    }
    stride *= self.size(d);
  }
  if (rest.defined()) {
    places = at::add(places, rest);
  }
  Tensor from = src;
  for (int64_t d = 0; d < src.dim(); ++d) {
    from = from.narrow(d, 0, index.size(d));
  }
  const Tensor whole = self.contiguous();
  scatter_flat(
      whole.view({-1}),
      places.reshape({-1}).index_select(0, mine),
      from.reshape({-1}).index_select(0, mine),
      reduce,
      include_self);
  return whole.is_same(self) ? self : self.copy_(whole);
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def(
      "pick_at(Tensor self, Tensor?[] indices, int[] begin, int[] size) "
      "-> Tensor");
  library.def(
      "put_at_(Tensor(a!) self, Tensor?[] indices, Tensor values, "
      "bool accumulate, int[] begin, int[] size, bool from_end) "
      "-> Tensor(a!)");
  library.def(
      "put_along_(Tensor(a!) self, int dim, Tensor index, Tensor src, "
      "str reduce, bool include_self, int begin, int size) -> Tensor(a!)");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("pick_at", torch::dispatch(key, TORCH_FN(pick_local)));
    library.impl("put_at_", torch::dispatch(key, TORCH_FN(put_local)));
    library.impl("put_along_", torch::dispatch(key, TORCH_FN(put_along_local)));
  }
}

}  // namespace

Indices indices_of(const c10::IValue& value) {
  Indices indices;
  for (const c10::IValue& index : value.toListRef()) {
    indices.push_back(
        index.isTensor() ? std::optional(index.toTensor()) : std::nullopt);
  }
  return indices;
}

bool has_masks(const Indices& indices) {
  for (size_t i = 0; i < indices.size(); ++i) {
    if (is_there(indices.get(i)) && is_mask(*indices.get(i))) {
      return true;
    }
  }
  return false;
}

void check_masks(const Tensor& self, const Indices& indices) {
  int64_t dim = 0;
  for (size_t i = 0; i < indices.size(); ++i) {
    if (!is_there(indices.get(i)) || !is_mask(*indices.get(i))) {
      ++dim;
      continue;
    }
    const Tensor mask = *indices.get(i);
    for (int64_t d = 0; d < mask.dim(); ++d, ++dim) {
      TORCH_CHECK_INDEX(
          dim < self.dim() && mask.size(d) == self.size(dim),
          "The shape of the mask ",
          mask.sizes(),
          " at index ",
          d,
          " does not match the shape of the indexed tensor ",
          self.sizes(),
          " at index ",
          dim);
    }
  }
}

Indices without_masks(const Tensor& self, const Indices& indices) {
  check_masks(self, indices);
  Indices result;
  for (size_t i = 0; i < indices.size(); ++i) {
    const std::optional<Tensor> index = indices.get(i);
    if (!is_there(index) || !is_mask(*index)) {
      result.push_back(index);
      continue;
    }
    TORCH_CHECK_INDEX(index->dim() > 0, "a mask without dims is no index");
    for (const Tensor& column : at::nonzero(*index).unbind(1)) {
      result.push_back(column.contiguous());
    }
  }
  return result;
}

Tensor pick_at(const Tensor& self, const Indices& indices) {
  static const Op& op = op_named("torch_mesh::pick_at", "");
  Stack stack{
      self, indices, std::vector<int64_t>(self.dim(), 0), self.sizes().vec()};
  run_op(op, stack);
  return stack[0].toTensor();
}

}  // namespace torch_mesh::programs

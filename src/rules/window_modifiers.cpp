// window_modifiers.cpp: sizes that sliding windows leave.

#include <algorithm>

#include "rules/modifiers.h"

namespace torch_mesh::rules {
namespace {

// Element d of a list; lists of one element hold for all dims.
std::optional<int64_t> at(
    const std::optional<std::vector<int64_t>>& values,
    size_t d) {
  if (!values || values->empty()) {
    return std::nullopt;
  }
  if (values->size() == 1) {
    return (*values)[0];
  }
  return d < values->size() ? std::optional((*values)[d]) : std::nullopt;
}

void make_whole(Binding& binding, const std::string& group) {
  for (const std::vector<int>& dim : *binding.dims(group)) {
    binding.make(dim, Factor::Kind::kWhole);
  }
}

// The dims left by windows, or those that are bound already, compared.
bool give_sizes(
    Binding& binding,
    const std::string& group,
    const std::vector<int64_t>& sizes) {
  if (!binding.is_bound(group)) {
    DimFactors dims;
    for (int64_t size : sizes) {
      if (size < 0) {
        return false;
      }
      dims.push_back(binding.whole_dim(size));
    }
    binding.set_dims(group, std::move(dims));
    return true;
  }
  const DimFactors& dims = *binding.dims(group);
  if (dims.size() != sizes.size()) {
    return false;
  }
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (binding.size_of(dims[d]) != sizes[d]) {
      return false;
    }
  }
  make_whole(binding, group);
  return true;
}

}  // namespace

// window(s*, o*, kernel, stride, padding, dilation, ceil_mode): pooling of s*
// to o*, both whole. An empty stride is the kernel's size.
bool slide_window(Binding& binding, const Args& args) {
  if (!binding.is_bound(args[0])) {
    return false;
  }
  make_whole(binding, args[0]);
  const auto kernel = binding.ints(args[2]);
  auto stride = binding.ints(args[3]);
  if (!stride || stride->empty()) {
    stride = kernel;
  }
  const auto padding = binding.ints(args[4]);
  const auto dilation = binding.ints(args[5]);
  const bool ceil_mode = args.size() > 6 && binding.flag(args[6]);
  std::vector<int64_t> sizes;
  const DimFactors& dims = *binding.dims(args[0]);
  for (size_t d = 0; d < dims.size(); ++d) {
    const auto k = at(kernel, d);
    const auto step = at(stride, d);
    const auto pad = at(padding, d);
    const auto spread = at(dilation, d);
    if (!k || !step || !pad || !spread || *step <= 0) {
      return false;
    }
    const int64_t size = binding.size_of(dims[d]);
    const int64_t room = size + 2 * *pad - *spread * (*k - 1) - 1;
    if (room < 0) {
      return false;
    }
    int64_t out = (room + (ceil_mode ? *step - 1 : 0)) / *step + 1;
    // A last window must start inside the input or its left padding.
    if (ceil_mode && (out - 1) * *step >= size + *pad) {
      --out;
    }
    sizes.push_back(out);
  }
  return give_sizes(binding, args[1], sizes);
}

// convolves(s*, k*, u*): input, kernel and output sizes, all whole; the other
// arguments have the names that convolutions give them.
bool convolve(Binding& binding, const Args& args) {
  if (!binding.is_bound(args[0]) || !binding.is_bound(args[1])) {
    return false;
  }
  // Without input channels torch's result has another size.
  for (const TensorInfo& weight : binding.call().args[1].tensors) {
    if (std::count(weight.sizes.begin(), weight.sizes.end(), 0) != 0) {
      return false;
    }
  }
  make_whole(binding, args[0]);
  make_whole(binding, args[1]);
  const DimFactors& in = *binding.dims(args[0]);
  const DimFactors& kernel = *binding.dims(args[1]);
  if (in.size() != kernel.size()) {
    return false;
  }
  const auto strides = binding.ints("stride");
  const auto paddings = binding.ints("padding");
  const auto dilations = binding.ints("dilation");
  const auto more = binding.ints("output_padding");
  const bool transposed = binding.flag("transposed");
  std::vector<int64_t> sizes;
  for (size_t d = 0; d < in.size(); ++d) {
    const auto step = at(strides, d);
    const auto pad = at(paddings, d);
    const auto spread = at(dilations, d);
    if (!step || !pad || !spread || *step <= 0) {
      return false;
    }
    const int64_t size = binding.size_of(in[d]);
    const int64_t reach = *spread * (binding.size_of(kernel[d]) - 1);
    if (transposed) {
      sizes.push_back(
          (size - 1) * *step - 2 * *pad + reach + at(more, d).value_or(0) + 1);
    } else {
      const int64_t room = size + 2 * *pad - reach - 1;
      if (room < 0) {
        return false;
      }
      sizes.push_back(room / *step + 1);
    }
  }
  return give_sizes(binding, args[2], sizes);
}

}  // namespace torch_mesh::rules

// index_modifiers.cpp: modifiers of ops that pick elements by other tensors.

#include <algorithm>

#include "rules/modifiers.h"

namespace torch_mesh::rules {
namespace {

constexpr auto kWhole = Factor::Kind::kWhole;

bool is_mask(const TensorInfo& tensor) {
  const std::string dtype = tensor.dtype;
  return dtype == "b8" || dtype == "u8";
}

// The groups other than the main one that the input terms have.
std::vector<std::string> other_groups(Binding& binding) {
  std::vector<std::string> found;
  for (char c = 'a'; c <= 'z'; ++c) {
    const std::string name = std::string(1, c) + "*";
    if (name != binding.main_group() && binding.is_bound(name)) {
      found.push_back(name);
    }
  }
  return found;
}

}  // namespace

// along(dim): gather and scatter. Position for position the groups are one dim
// where their sizes agree; along `dim`, and where they differ, they are whole.
bool align_along(Binding& binding, const Args& args) {
  const size_t n = binding.left().size();
  const auto dim = binding.dim(args[0], static_cast<int64_t>(n));
  const std::vector<std::string> others = other_groups(binding);
  if (!dim) {
    return false;
  }
  for (const std::string& name : others) {
    if (binding.dims(name)->size() != n) {
      return false;
    }
  }
  for (size_t d = 0; d < n; ++d) {
    const int64_t size = binding.size_of(binding.left()[d]);
    bool agree = static_cast<int64_t>(d) != *dim;
    for (const std::string& name : others) {
      agree &= binding.size_of((*binding.dims(name))[d]) == size;
    }
    if (!agree) {
      binding.hold(binding.left()[d]);
    }
    for (const std::string& name : others) {
      const std::vector<int> theirs = (*binding.dims(name))[d];
      if (!agree) {
        binding.make(theirs, kWhole);
      } else if (!binding.unify(theirs, binding.left()[d])) {
        return false;
      }
    }
  }
  return true;
}

// swaps(dim, i, y*): y* is the main group with the letter i in place of `dim`,
// which is whole, or rewritten.
bool swap_dim(Binding& binding, const Args& args) {
  const auto dim =
      binding.dim(args[0], static_cast<int64_t>(binding.left().size()));
  const DimFactors* letter = binding.dims(args[1]);
  if (!dim || !letter) {
    return false;
  }
  binding.hold(binding.left()[*dim]);
  DimFactors swapped = binding.left();
  swapped[*dim] = (*letter)[0];
  if (!binding.is_bound(args[2])) {
    binding.set_dims(args[2], std::move(swapped));
    return true;
  }
  if (binding.dims(args[2])->size() != swapped.size()) {
    return false;
  }
  for (size_t d = 0; d < swapped.size(); ++d) {
    const std::vector<int> theirs = (*binding.dims(args[2]))[d];
    if (!binding.unify(theirs, swapped[d])) {
      return false;
    }
  }
  return true;
}

// indexes(indices, y*): y* are the dims of main[indices]. The index tensors are
// the group i*; the dims that they index are whole. indexes(indices, y*, 1): a
// single one is rewritten.
bool index_by(Binding& binding, const Args& args) {
  const Arg* arg = binding.find_arg(args[0]);
  if (!arg || arg->present.size() > binding.left().size() ||
      std::any_of(arg->tensors.begin(), arg->tensors.end(), is_mask)) {
    return false;
  }
  const bool rewrites = args.size() > 2 && arg->tensors.size() == 1;
  const DimFactors index =
      binding.is_bound("i*") ? *binding.dims("i*") : DimFactors();
  DimFactors result;
  size_t first = 0;
  size_t runs = 0;
  for (size_t d = 0; d < binding.left().size(); ++d) {
    if (d < arg->present.size() && arg->present[d]) {
      binding.make(
          binding.left()[d], rewrites ? Factor::Kind::kRewrite : kWhole);
      if (d == 0 || !arg->present[d - 1]) {
        first = runs++ == 0 ? result.size() : 0;
      }
    } else {
      result.push_back(binding.left()[d]);
    }
  }
  // Indices that do not stand side by side put their dims in front.
  result.insert(
      result.begin() + static_cast<std::ptrdiff_t>(first),
      index.begin(),
      index.end());
  binding.set_dims(args[1], std::move(result));
  return true;
}

}  // namespace torch_mesh::rules

// index_modifiers.cpp: modifiers of ops that pick elements by other tensors.

#include <algorithm>

#include "rules/modifiers.h"

namespace torch_mesh::rules {
namespace {

constexpr auto kWhole = Factor::Kind::kWhole;

// What an int-list argument with one element for each dim of the main group
// becomes: the elements of these dims grow.
bool shift_elements(
    Binding& binding,
    const std::string& word,
    const std::vector<bool>& dims) {
  const Arg* arg = binding.find_arg(word);
  if (!arg || arg->kind != ArgKind::kIntList ||
      arg->ints.size() != binding.left().size()) {
    return false;
  }
  std::vector<LocalSizes::Element> elements(dims.size());
  for (size_t d = 0; d < dims.size(); ++d) {
    elements[d].keep = true;
    if (dims[d]) {
      elements[d].up = binding.left()[d];
    }
  }
  binding.localise(word, std::move(elements));
  return true;
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
// along(dim, 1): along `dim` the others are one dim of their own.
// along(dim, begin): along `dim` the main group passes; the argument grows.
bool align_along(Binding& binding, const Args& args) {
  const size_t n = binding.left().size();
  const auto dim = binding.dim(args[0], static_cast<int64_t>(n));
  const std::vector<std::string> others = other_groups(binding);
  if (!dim) {
    return false;
  }
  const bool others_pass = args.size() > 1 && args[1] == "1";
  const bool main_passes = args.size() > 1 && !others_pass;
  for (const std::string& name : others) {
    if (binding.dims(name)->size() != n) {
      return false;
    }
  }
  for (size_t d = 0; d < n; ++d) {
    const bool is_along = static_cast<int64_t>(d) == *dim;
    const std::vector<int> one = is_along && others_pass && !others.empty()
                                     ? (*binding.dims(others[0]))[d]
                                     : binding.left()[d];
    bool agree = !is_along || others_pass;
    for (const std::string& name : others) {
      agree &=
          binding.size_of((*binding.dims(name))[d]) == binding.size_of(one);
    }
    if (is_along ? !main_passes : !agree) {
      binding.hold(binding.left()[d]);
    }
    for (const std::string& name : others) {
      const std::vector<int> theirs = (*binding.dims(name))[d];
      if (!agree) {
        binding.make(theirs, kWhole);
      } else if (!binding.unify(theirs, one)) {
        return false;
      }
    }
  }
  if (main_passes) {
    const Arg* arg = binding.find_arg(args[1]);
    if (!arg || arg->kind != ArgKind::kInt) {
      return false;
    }
    LocalSizes::Element element;
    element.keep = true;
    element.up = binding.left()[*dim];
    binding.localise(args[1], {std::move(element)});
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
// the group i*; the dims that they index are whole.
// indexes(indices, y*, 1): they are rewritten.
// indexes(indices, y*, begin): they pass; the argument's elements grow.
bool index_by(Binding& binding, const Args& args) {
  const Arg* arg = binding.find_arg(args[0]);
  if (!arg || arg->present.size() > binding.left().size() || has_masks(*arg)) {
    return false;
  }
  const bool rewrites = args.size() > 2 && args[2] == "1";
  const bool passes = args.size() > 2 && !rewrites;
  const DimFactors index =
      binding.is_bound("i*") ? *binding.dims("i*") : DimFactors();
  DimFactors result;
  std::vector<bool> indexed(binding.left().size(), false);
  size_t first = 0;
  size_t runs = 0;
  for (size_t d = 0; d < binding.left().size(); ++d) {
    if (d < arg->present.size() && arg->present[d]) {
      indexed[d] = true;
      if (!passes) {
        binding.make(
            binding.left()[d], rewrites ? Factor::Kind::kRewrite : kWhole);
      }
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
  return !passes || shift_elements(binding, args[2], indexed);
}

}  // namespace torch_mesh::rules

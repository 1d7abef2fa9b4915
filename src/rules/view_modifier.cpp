// view_modifier.cpp: which dims a view splits and merges.
//
// Dims of size 1 aside, the dims of both sides fall into groups of equal
// products, the shortest first. Inside a group the products of leading dims are
// its cut points; where those of both sides together form a chain of divisors,
// the quotients are factors that both sides share: [6, 4] viewed as [2, 12] has
// the cut points 2, 6, 24 and the factors 2, 3, 4.

#include <algorithm>
#include <set>

#include "rules/modifiers.h"

namespace torch_mesh::rules {
namespace {

// The sizes that are asked for, with -1 filled in.
std::optional<std::vector<int64_t>> full_sizes(
    std::vector<int64_t> sizes,
    int64_t numel) {
  int64_t known = 1;
  auto open = sizes.end();
  for (auto size = sizes.begin(); size != sizes.end(); ++size) {
    if (*size == -1 && open == sizes.end()) {
      open = size;
    } else if (*size < 0) {
      return std::nullopt;
    } else {
      known *= *size;
    }
  }
  if (open != sizes.end()) {
    if (known == 0 || numel % known != 0) {
      return std::nullopt;
    }
    *open = numel / known;
    known = numel;
  }
  return known == numel ? std::optional(sizes) : std::nullopt;
}

// Dims [begin, end) of one side.
struct Side {
  const std::vector<int64_t>& sizes;
  DimFactors& dims;
  size_t begin = 0;
  size_t end = 0;

  void add_cuts(std::set<int64_t>& cuts) const {
    int64_t product = 1;
    for (size_t d = begin; d < end; ++d) {
      cuts.insert(product *= sizes[d]);
    }
  }

  // Gives each dim its run of factors; the sizes are known to fit.
  void hand_out(
      const std::vector<int>& factors,
      const std::vector<int64_t>& cuts) const {
    int64_t product = 1;
    size_t next = 0;
    for (size_t d = begin; d < end; ++d) {
      product *= sizes[d];
      if (sizes[d] == 1) {
        continue;
      }
      dims[d].clear();
      while (next < factors.size() && cuts[next] <= product) {
        dims[d].push_back(factors[next++]);
      }
    }
  }
};

// Extends the side with the smaller product until both are equal.
void next_group(Side& old_side, Side& new_side) {
  old_side.begin = old_side.end;
  new_side.begin = new_side.end;
  int64_t left = 1;
  int64_t right = 1;
  bool first = true;
  while (first || left != right) {
    const bool old_ends = old_side.end == old_side.sizes.size();
    if ((left <= right && !old_ends) || new_side.end == new_side.sizes.size()) {
      left *= old_side.sizes[old_side.end++];
    } else {
      right *= new_side.sizes[new_side.end++];
    }
    first = false;
  }
}

void share(Binding& binding, const Side& old_side, const Side& new_side) {
  std::set<int64_t> cut_set;
  old_side.add_cuts(cut_set);
  new_side.add_cuts(cut_set);
  cut_set.erase(1);
  const std::vector<int64_t> cuts(cut_set.begin(), cut_set.end());
  int64_t last = 1;
  for (int64_t cut : cuts) {
    if (cut % last != 0) {
      // Elements move between the dims: nothing passes.
      for (size_t d = old_side.begin; d < old_side.end; ++d) {
        binding.make(old_side.dims[d], Factor::Kind::kWhole);
      }
      for (size_t d = new_side.begin; d < new_side.end; ++d) {
        new_side.dims[d] = binding.whole_dim(new_side.sizes[d]);
      }
      return;
    }
    last = cut;
  }
  std::vector<int> factors;
  last = 1;
  for (size_t i = 0; i < cuts.size(); ++i) {
    factors.push_back(binding.add_factor(
        binding.main_group().substr(0, 1) + std::to_string(old_side.begin) +
            (cuts.size() == 1 ? "" : "." + std::to_string(i)),
        cuts[i] / last));
    last = cuts[i];
  }
  old_side.hand_out(factors, cuts);
  new_side.hand_out(factors, cuts);
}

}  // namespace

bool view_as(Binding& binding, const Args& args) {
  const auto given = binding.ints(args[0]);
  if (!given) {
    return false;
  }
  std::vector<int64_t> old_sizes;
  int64_t numel = 1;
  for (const std::vector<int>& dim : binding.left()) {
    old_sizes.push_back(binding.size_of(dim));
    numel *= old_sizes.back();
  }
  const auto new_sizes = full_sizes(*given, numel);
  if (!new_sizes) {
    return false;
  }
  DimFactors new_dims(new_sizes->size());
  for (size_t d = 0; d < old_sizes.size(); ++d) {
    // A device without the only element of a dim has nothing to view.
    if (old_sizes[d] == 1 || numel == 0) {
      binding.make(binding.left()[d], Factor::Kind::kWhole);
    }
  }
  if (numel == 0) {
    for (size_t d = 0; d < new_dims.size(); ++d) {
      new_dims[d] = binding.whole_dim((*new_sizes)[d]);
    }
  } else {
    Side old_side{old_sizes, binding.left()};
    Side new_side{*new_sizes, new_dims};
    while (old_side.end < old_sizes.size() ||
           new_side.end < new_sizes->size()) {
      next_group(old_side, new_side);
      share(binding, old_side, new_side);
    }
  }
  std::vector<LocalSizes::Element> elements;
  for (const std::vector<int>& dim : new_dims) {
    elements.push_back({dim, false});
  }
  binding.localise(args[0], std::move(elements));
  binding.right() = std::move(new_dims);
  return true;
}

}  // namespace torch_mesh::rules

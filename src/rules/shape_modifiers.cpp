// shape_modifiers.cpp: modifiers that rearrange the dims of the main group.

#include <algorithm>

#include "rules/modifiers.h"

namespace torch_mesh::rules {
namespace {

constexpr auto kWhole = Factor::Kind::kWhole;

int64_t count(const DimFactors& dims) {
  return static_cast<int64_t>(dims.size());
}

int64_t ceil_divided(int64_t size, int64_t by) { return (size + by - 1) / by; }

// Indices of a slice as torch clamps them.
struct Slice {
  int64_t start;
  int64_t end;
  int64_t step;

  int64_t length() const {
    return ceil_divided(std::max<int64_t>(end - start, 0), step);
  }
  bool is_all_of(int64_t size) const {
    return start == 0 && end == size && step == 1;
  }
};

std::optional<Slice> slice_of(
    const Binding& binding,
    const std::string& start,
    const std::string& end,
    const std::string& step,
    int64_t size) {
  auto clamped = [&](std::optional<int64_t> at, int64_t otherwise) {
    if (!at) {
      return otherwise;
    }
    return std::clamp<int64_t>(*at < 0 ? *at + size : *at, 0, size);
  };
  Slice slice{clamped(binding.integer(start), 0),
              clamped(binding.integer(end), size),
              binding.integer(step).value_or(1)};
  return slice.step > 0 ? std::optional(slice) : std::nullopt;
}

}  // namespace

bool permute_dims(Binding& binding, const Args& args) {
  const auto order = binding.ints(args[0]);
  const int64_t n = count(binding.left());
  if (!order || static_cast<int64_t>(order->size()) != n) {
    return false;
  }
  DimFactors result;
  std::vector<bool> taken(n, false);
  for (int64_t dim : *order) {
    if (dim < -n || dim >= n) {
      return false;
    }
    const int64_t d = dim < 0 ? dim + n : dim;
    if (taken[d]) {
      return false;
    }
    taken[d] = true;
    result.push_back(binding.right()[d]);
  }
  binding.right() = std::move(result);
  return true;
}

bool transpose_dims(Binding& binding, const Args& args) {
  const int64_t n = std::max<int64_t>(count(binding.left()), 1);
  const auto a = binding.dim(args[0], n);
  const auto b = binding.dim(args[1], n);
  if (!a || !b) {
    return false;
  }
  if (!binding.right().empty()) {
    std::swap(binding.right()[*a], binding.right()[*b]);
  }
  return true;
}

bool select_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()));
  if (!dim) {
    return false;
  }
  binding.make(binding.left()[*dim], kWhole);
  binding.right().erase(binding.right().begin() + *dim);
  return true;
}

bool slice_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()));
  if (!dim) {
    return false;
  }
  const int64_t size = binding.size_of(binding.left()[*dim]);
  const auto slice = slice_of(binding, args[1], args[2], args[3], size);
  if (!slice) {
    return false;
  }
  if (!slice->is_all_of(size)) {
    binding.make(binding.left()[*dim], kWhole);
    binding.right()[*dim] = binding.whole_dim(slice->length());
  }
  return true;
}

// unslices(sizes, dim, start, end, step): the gradient of a slice.
bool unslice_dim(Binding& binding, const Args& args) {
  const auto sizes = binding.ints(args[0]);
  const auto dim = binding.dim(args[1], count(binding.left()));
  if (!sizes || !dim || sizes->size() != binding.left().size()) {
    return false;
  }
  const int64_t size = (*sizes)[*dim];
  const auto slice = slice_of(binding, args[2], args[3], args[4], size);
  if (!slice) {
    return false;
  }
  if (!slice->is_all_of(size)) {
    binding.make(binding.left()[*dim], kWhole);
    binding.right()[*dim] = binding.whole_dim(size);
  }
  std::vector<LocalSizes::Element> elements;
  for (size_t d = 0; d < sizes->size(); ++d) {
    const std::vector<int>& factors = binding.right()[d];
    if (binding.size_of(factors) != (*sizes)[d]) {
      return false;
    }
    elements.push_back({factors, false});
  }
  binding.localise(args[0], std::move(elements));
  return true;
}

// unselects(sizes, dim): the gradient of a select.
bool unselect_dim(Binding& binding, const Args& args) {
  const auto sizes = binding.ints(args[0]);
  const auto dim = binding.dim(args[1], count(binding.left()) + 1);
  if (!sizes || !dim || sizes->size() != binding.left().size() + 1) {
    return false;
  }
  binding.right().insert(
      binding.right().begin() + *dim, binding.whole_dim((*sizes)[*dim]));
  std::vector<LocalSizes::Element> elements;
  for (size_t d = 0; d < sizes->size(); ++d) {
    const std::vector<int>& factors = binding.right()[d];
    if (binding.size_of(factors) != (*sizes)[d]) {
      return false;
    }
    elements.push_back({factors, false});
  }
  binding.localise(args[0], std::move(elements));
  return true;
}

bool unsqueeze_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()) + 1);
  if (!dim) {
    return false;
  }
  binding.right().insert(binding.right().begin() + *dim, std::vector<int>());
  return true;
}

// A dim that is longer than 1 must not become 1 on a device: the local op would
// drop it. So the op is rewritten to name only dims of one element.
bool squeeze_dims(Binding& binding, const Args& args) {
  const auto values = binding.ints(args[0]);
  std::vector<bool> named(binding.left().size(), !values);
  if (values && !values->empty()) {
    named = binding.named_dims(args[0]).value_or(std::vector<bool>());
    if (named.size() != binding.left().size()) {
      return false;
    }
  }
  DimFactors result;
  for (size_t d = 0; d < named.size(); ++d) {
    if (!named[d]) {
      result.push_back(binding.right()[d]);
      continue;
    }
    const bool is_one = binding.size_of(binding.left()[d]) == 1;
    binding.make(binding.left()[d], is_one ? kWhole : Factor::Kind::kRewrite);
    if (!is_one) {
      result.push_back(binding.right()[d]);
    }
  }
  binding.right() = std::move(result);
  return true;
}

bool expand_dims(Binding& binding, const Args& args) {
  const auto sizes = binding.ints(args[0]);
  if (!sizes || sizes->size() < binding.left().size()) {
    return false;
  }
  const size_t shift = sizes->size() - binding.left().size();
  DimFactors result;
  std::vector<LocalSizes::Element> elements;
  for (size_t d = 0; d < sizes->size(); ++d) {
    const int64_t wanted = (*sizes)[d];
    if (d < shift) {
      if (wanted < 0) {
        return false;
      }
      result.push_back(binding.whole_dim(wanted));
    } else {
      const std::vector<int>& dim = binding.left()[d - shift];
      const int64_t size = binding.size_of(dim);
      if (wanted == -1 || wanted == size) {
        result.push_back(dim);
      } else if (size == 1 && wanted >= 0) {
        // Replicated, as a device without the one element has none to repeat.
        binding.make(dim, kWhole);
        result.push_back(binding.whole_dim(wanted));
      } else {
        return false;
      }
    }
    elements.push_back({result.back(), false});
  }
  binding.localise(args[0], std::move(elements));
  binding.right() = std::move(result);
  return true;
}

bool repeat_dims(Binding& binding, const Args& args) {
  const auto repeats = binding.ints(args[0]);
  if (!repeats || repeats->size() < binding.left().size()) {
    return false;
  }
  const size_t shift = repeats->size() - binding.left().size();
  DimFactors result;
  for (size_t d = 0; d < repeats->size(); ++d) {
    const int64_t times = (*repeats)[d];
    if (times < 0) {
      return false;
    }
    if (d < shift) {
      result.push_back(binding.whole_dim(times));
    } else if (times == 1) {
      result.push_back(binding.right()[d - shift]);
    } else {
      const std::vector<int>& dim = binding.left()[d - shift];
      binding.make(dim, kWhole);
      result.push_back(binding.whole_dim(binding.size_of(dim) * times));
    }
  }
  binding.right() = std::move(result);
  return true;
}

// splits(dim, sizes): into pieces of one size, or of the sizes of a list.
bool split_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()));
  const Arg* arg = binding.find_arg(args[1]);
  if (!dim || !arg) {
    return false;
  }
  const int64_t size = binding.size_of(binding.left()[*dim]);
  std::vector<int64_t> lengths;
  if (arg->kind == ArgKind::kIntList) {
    lengths = arg->ints;
  } else {
    const int64_t step = arg->integer;
    if (step < 0 || (step == 0 && size > 0)) {
      return false;
    }
    for (int64_t begin = 0; begin < size; begin += step) {
      lengths.push_back(std::min(step, size - begin));
    }
    if (lengths.empty()) {
      lengths.push_back(0);
    }
  }
  int64_t sum = 0;
  std::vector<DimFactors> pieces;
  for (int64_t length : lengths) {
    if (length < 0) {
      return false;
    }
    sum += length;
    pieces.push_back(binding.right());
    pieces.back()[*dim] = binding.whole_dim(length);
  }
  if (sum != size) {
    return false;
  }
  binding.make(binding.left()[*dim], kWhole);
  binding.set_pieces(std::move(pieces));
  return true;
}

bool join_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()));
  if (!dim) {
    return false;
  }
  int64_t sum = 0;
  for (int i : binding.tensors_of_param(0)) {
    const TensorInfo& tensor = binding.tensor(i);
    if (tensor.dim() == count(binding.left())) {
      sum += tensor.sizes[*dim];
    }
  }
  binding.right()[*dim] = binding.whole_dim(sum);
  return true;
}

bool stack_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()) + 1);
  if (!dim) {
    return false;
  }
  const std::vector<int> tensors = binding.tensors_of_param(0);
  for (int i : tensors) {
    if (binding.tensor(i).sizes != binding.tensor(tensors[0]).sizes) {
      return false;
    }
  }
  binding.right().insert(
      binding.right().begin() + *dim,
      binding.whole_dim(static_cast<int64_t>(tensors.size())));
  return true;
}

bool unbind_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()));
  if (!dim) {
    return false;
  }
  const int64_t size = binding.size_of(binding.left()[*dim]);
  binding.make(binding.left()[*dim], kWhole);
  DimFactors piece = binding.right();
  piece.erase(piece.begin() + *dim);
  binding.set_pieces(std::vector<DimFactors>(size, piece));
  return true;
}

// diagonals(offset, dim1, dim2)
bool take_diagonal(Binding& binding, const Args& args) {
  const int64_t n = count(binding.left());
  const auto offset = binding.integer(args[0]);
  const auto a = binding.dim(args[1], n);
  const auto b = binding.dim(args[2], n);
  if (!offset || !a || !b || *a == *b) {
    return false;
  }
  const int64_t rows = binding.size_of(binding.left()[*a]);
  const int64_t columns = binding.size_of(binding.left()[*b]);
  const int64_t length = *offset >= 0 ? std::min(rows, columns - *offset)
                                      : std::min(rows + *offset, columns);
  binding.make(binding.left()[*a], kWhole);
  binding.make(binding.left()[*b], kWhole);
  DimFactors& dims = binding.right();
  dims.erase(dims.begin() + std::max(*a, *b));
  dims.erase(dims.begin() + std::min(*a, *b));
  dims.push_back(binding.whole_dim(std::max<int64_t>(length, 0)));
  return true;
}

// unfolds(dim, size, step): windows along a dim, their insides as the last one.
bool unfold_dim(Binding& binding, const Args& args) {
  const auto dim = binding.dim(args[0], count(binding.left()));
  const auto window = binding.integer(args[1]);
  const auto step = binding.integer(args[2]);
  if (!dim || !window || !step || *step <= 0) {
    return false;
  }
  const int64_t size = binding.size_of(binding.left()[*dim]);
  if (*window < 0 || *window > size) {
    return false;
  }
  binding.make(binding.left()[*dim], kWhole);
  binding.right()[*dim] = binding.whole_dim((size - *window) / *step + 1);
  binding.right().push_back(binding.whole_dim(*window));
  return true;
}

// resizes(dim, size): along `dim` the result has a size of its own.
bool resize_dim(Binding& binding, const Args& args) {
  const int64_t n = count(binding.left());
  const auto dim = binding.dim(args[0], std::max<int64_t>(n, 1));
  const auto size = binding.integer(args[1]);
  if (!dim || !size || *size < 0) {
    return false;
  }
  if (n > 0) {
    binding.make(binding.left()[*dim], kWhole);
    binding.right()[*dim] = binding.whole_dim(*size);
  }
  return true;
}

// pads(pad): before and after each dim, from the last dim on.
bool pad_dims(Binding& binding, const Args& args) {
  const auto pad = binding.ints(args[0]);
  const int64_t n = count(binding.left());
  if (!pad || pad->size() % 2 != 0 ||
      static_cast<int64_t>(pad->size()) / 2 > n) {
    return false;
  }
  for (size_t i = 0; i < pad->size() / 2; ++i) {
    const int64_t more = (*pad)[2 * i] + (*pad)[2 * i + 1];
    if ((*pad)[2 * i] == 0 && (*pad)[2 * i + 1] == 0) {
      continue;
    }
    const int64_t d = n - 1 - static_cast<int64_t>(i);
    const int64_t size = binding.size_of(binding.left()[d]) + more;
    if (size < 0) {
      return false;
    }
    binding.make(binding.left()[d], kWhole);
    binding.right()[d] = binding.whole_dim(size);
  }
  return true;
}

// remakes(dim): the named dims are whole, and have the sizes that the op itself
// gives its first result.
bool remake_dims(Binding& binding, const Args& args) {
  const auto named = binding.named_dims(args[0]);
  const std::vector<int64_t>* sizes = binding.sizes_of_result(0);
  if (!named || !sizes || sizes->size() != named->size()) {
    return false;
  }
  for (size_t d = 0; d < named->size(); ++d) {
    if ((*named)[d]) {
      binding.make(binding.left()[d], kWhole);
      binding.right()[d] = binding.whole_dim((*sizes)[d]);
    }
  }
  return true;
}

// restores(sizes, dim1, dim2): the gradient of a view that took the dims dim1
// and dim2 of `sizes` away (a diagonal) or rearranged dim1 (windows). These are
// whole; the others are the main group's in order.
bool restore_dims(Binding& binding, const Args& args) {
  const auto sizes = binding.ints(args[0]);
  if (!sizes) {
    return false;
  }
  const auto n = static_cast<int64_t>(sizes->size());
  std::vector<bool> is_made(n, false);
  for (size_t a = 1; a < args.size(); ++a) {
    const auto dim = binding.dim(args[a], n);
    if (!dim) {
      return false;
    }
    is_made[*dim] = true;
  }
  // Windows stand in place of their dim; a diagonal stands last.
  const DimFactors& left = binding.left();
  const bool stands_there = count(left) > n;
  DimFactors result;
  std::vector<LocalSizes::Element> elements;
  int64_t next = 0;
  for (int64_t d = 0; d < n; ++d) {
    next += is_made[d] && stands_there;
    if (!is_made[d] && next >= count(left)) {
      return false;
    }
    result.push_back(
        is_made[d] ? binding.whole_dim((*sizes)[d]) : left[next++]);
    if (binding.size_of(result.back()) != (*sizes)[d]) {
      return false;
    }
    elements.push_back({result.back(), false});
  }
  for (int64_t d = 0; d < count(left); ++d) {
    if (std::find(result.begin(), result.end(), left[d]) == result.end()) {
      binding.make(left[d], kWhole);
    }
  }
  binding.localise(args[0], std::move(elements));
  binding.right() = std::move(result);
  return true;
}

}  // namespace torch_mesh::rules

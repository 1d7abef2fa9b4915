// pieces.cpp: cuts and joins, by views where a piece is one.

#include "comm/pieces.h"

#include <algorithm>
#include <numeric>

#include <ATen/ops/cat.h>

#include <torch_mesh/layout.h>

#include "shard/slice.h"

namespace torch_mesh {
namespace {

// A dim as rows of blocks: [.., m, ..] -> [.., m / block, block, ..].
at::Tensor unfold_blocks(const at::Tensor& t, int64_t dim, int64_t block) {
  std::vector<int64_t> sizes = t.sizes().vec();
  const int64_t blocks = sizes[dim] / block;
  sizes[dim] = blocks;
  sizes.insert(sizes.begin() + dim + 1, block);
  return t.reshape(sizes);
}

at::Tensor fold_blocks(const at::Tensor& t, int64_t dim) {
  return t.flatten(dim, dim + 1);
}

// The pieces one after the other along `dim`. The whole has the pieces' order
// of dims in memory, which cat would make row-major.
at::Tensor join_in_order(std::vector<at::Tensor> pieces, int64_t dim) {
  const at::Tensor first = pieces[0];
  if (first.is_contiguous()) {
    return at::cat(pieces, dim);
  }
  std::vector<int64_t> outer_first(first.dim());
  std::iota(outer_first.begin(), outer_first.end(), 0);
  std::stable_sort(
      outer_first.begin(), outer_first.end(), [&](int64_t a, int64_t b) {
        return first.stride(a) > first.stride(b);
      });
  std::vector<int64_t> places(outer_first.size());
  for (size_t i = 0; i < outer_first.size(); ++i) {
    places[outer_first[i]] = static_cast<int64_t>(i);
  }
  for (at::Tensor& piece : pieces) {
    piece = piece.permute(outer_first);
  }
  return at::cat(pieces, places[dim]).permute(places);
}

}  // namespace

at::Tensor cut(
    const at::Tensor& whole,
    const Placement& placement,
    int64_t n,
    int64_t i) {
  const int64_t dim = placement.dim;
  if (placement.block == 0) {
    const Range range = chunk(whole.size(dim), n, i);
    return slice_of(whole, dim, range.begin, range.length);
  }
  const int64_t part = placement.block / n;
  return fold_blocks(
      unfold_blocks(whole, dim, placement.block)
          .narrow(dim + 1, i * part, part),
      dim);
}

at::Tensor join(std::vector<at::Tensor> pieces, const Placement& placement) {
  const int64_t dim = placement.dim;
  if (placement.block == 0) {
    return join_in_order(std::move(pieces), dim);
  }
  const int64_t part = placement.block / static_cast<int64_t>(pieces.size());
  for (at::Tensor& piece : pieces) {
    piece = unfold_blocks(piece, dim, part);
  }
  return fold_blocks(at::cat(pieces, dim + 1), dim);
}

}  // namespace torch_mesh

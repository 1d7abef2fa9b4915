// packing.h: global tensors of local results, where these say too little.

#pragma once

#include <vector>

#include "lower/lowered_plan.h"
#include "shard/shard.h"

namespace torch_mesh {

// A result of `plan`, of shards that are dense, or slices of one where the
// lanes were joined. Shards show the order of the dims of which they have more
// than one element; what torch says of the whole shows the rest.
at::Tensor make_result(
    const LoweredPlan& plan,
    size_t output,
    const Layout& layout,
    Shards shards,
    bool is_joined);

// Whether each process finds the same order of dims in its own shards of a
// result: it has all, or they are of equal sizes, or each shows the order of
// all dims.
bool shows_order(
    const Plan::Output& output,
    const std::vector<std::vector<int64_t>>& local_sizes);

// Shards of an argument that have moved. Kernels that read memory as it lies
// may count on what autograd gave them, and their results lie as their
// arguments do. Slices of one tensor are copied as one, so that they still lie
// side by side.
//   must_be_dense   whether the op reads memory so
//   joins           whether the lanes may join along dim 0
Shards dense_as(
    const at::Tensor& tensor,
    bool must_be_dense,
    bool joins,
    Shards shards);

// The storage offset of a tensor, in elements of a view's dtype.
inline int64_t offset_in(const at::Tensor& tensor, const Shard& view) {
  return tensor.storage_offset() * static_cast<int64_t>(tensor.itemsize()) /
         view.itemsize();
}

// Rounds what was computed in the wider type that stands for this one.
void round_to(at::ScalarType dtype, Shards& results);

// The slices of a joined result, one for each lane that holds some.
Shards slices_of(const at::Tensor& whole, const LoweredPlan::Output& output);

// A local op has given other sizes than its plan says: a bug of ours.
[[noreturn]] void raise_size_mismatch(
    size_t output,
    const std::string& context,
    c10::IntArrayRef local,
    c10::IntArrayRef planned,
    const Plan& plan);

// Makes the results of the lanes what a new tensor holds: dense, and at the
// begin of their memory unless they may lie `side_by_side`; by copies where
// they are not.
void make_dense(Shards& results, bool side_by_side);

// Whether a replicated result, which lies in memory of its own, has gaps there,
// as LAPACK leaves them.
// `is_of_an_argument` says whether a result lies in memory of an argument.
template <typename IsOfAnArgument>
bool leaves_gaps(const Shards& results, IsOfAnArgument&& is_of_an_argument);

// A replicated result with gaps: as in plain torch, a window on all of its
// memory.
at::Tensor make_with_gaps(const Layout& layout, Shards results);

// Whether a result lies in memory of one of these.
bool lies_in(const Shard& result, const Shards& shards);

// Gives a destination the size to which the local op has resized its replicas,
// as addbmm_ does.
void take_size(
    const at::Tensor& destination,
    const Shards& written,
    const Mesh& mesh);

// Details only below this line.

// Of a result that is not dense: it repeats no element.
bool repeats_nothing(const Shard& result);

template <typename IsOfAnArgument>
bool leaves_gaps(const Shards& results, IsOfAnArgument&& is_of_an_argument) {
  for (const Shard& result : results) {
    if (!result.is_dense() && repeats_nothing(result) &&
        !is_of_an_argument(result)) {
      return true;
    }
  }
  return false;
}

}  // namespace torch_mesh

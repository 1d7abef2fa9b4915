// places.h: places that other tensors name, where each device holds some of
// them.

#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

namespace torch_mesh::programs {

// The indices of x[...]: one for each dim, or nothing; a mask for several.
using Indices = c10::List<std::optional<at::Tensor>>;

Indices indices_of(const c10::IValue& value);

inline bool is_there(const std::optional<at::Tensor>& index) {
  return index && index->defined();
}

inline bool is_mask(const at::Tensor& index) {
  return index.scalar_type() == at::kBool || index.scalar_type() == at::kByte;
}
bool has_masks(const Indices& indices);

// As torch's kernels do: a mask has the sizes of the dims that it stands for.
void check_masks(const at::Tensor& self, const Indices& indices);

// Numbers in place of masks, as torch's own kernels begin: how many there are,
// only values say, so masks are gathered. Throws where one does not fit.
Indices without_masks(const at::Tensor& self, const Indices& indices);

// self[indices] where a device may hold some places only: parts of a sum.
at::Tensor pick_at(const at::Tensor& self, const Indices& indices);

}  // namespace torch_mesh::programs

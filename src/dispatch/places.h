// places.h: writes at places that other tensors name, where each device holds
// some of them.

#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include "dispatch/rewrites.h"

namespace torch_mesh {

// The indices of x[...]: one for each dim, or nothing; a mask for several.
using Indices = c10::List<std::optional<at::Tensor>>;

Indices indices_of(const c10::IValue& value);

// Numbers in place of masks, as torch's own kernels begin: how many there are,
// only values say, so masks are gathered. Throws where one does not fit.
Indices without_masks(const at::Tensor& self, const Indices& indices);
bool has_masks(const Indices& indices);

// self[indices] where a device may hold some places only: parts of a sum.
at::Tensor pick_at(const at::Tensor& self, const Indices& indices);

// The program of `index_put`, `index_add`, `index_copy`, `index_fill` and the
// scatters, for a dim that is written along and sharded: every device writes
// what it holds. nullptr for other ops.
Rewrite rewrite_of_put(const Op& op);

}  // namespace torch_mesh

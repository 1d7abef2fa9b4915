// overlaps.h: arguments that lie in one storage.

#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "run/op.h"

namespace torch_mesh {

// One list of tensors of a call.
struct ListOfCall {
  const std::vector<at::Tensor>* tensors;
  bool is_written;
};

// Whether what is written to one of these tensors may lie where another one
// reads or writes: then the order of the elements matters. By the bytes that
// the tensors span in their storages; a "yes" may be too careful.
bool may_overlap(const std::vector<ListOfCall>& lists);

// Local views of one place may differ in strides of dims of size 1, which no
// element shows and torch's check takes for a partial overlap: arguments of a
// local call become the destination that they are.
void unite_places(const Op& op, Stack& local);

}  // namespace torch_mesh

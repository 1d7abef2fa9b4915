// list_call.h: the arguments of a list op, and what they say of how it runs.

#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "run/op.h"

namespace torch_mesh {

// One list argument, element by element.
struct ListArg {
  size_t param;
  bool is_written;
  std::vector<at::Tensor> tensors;
  int first_slot;  // number of its first tensor among those of the call
};

// A tensor for all elements: the learning rate, the scale of gradients.
struct SharedArg {
  size_t param;
  bool is_written;
  at::Tensor tensor;
  int slot;  // its number among the tensors of the call
};

// A call of an op whose lists are element by element. The arguments are the
// last ones of a stack, which must live on.
class ListCall {
 public:
  ListCall(const Op& op, Stack& stack);

  // False if the lists are not element by element: torch reports that.
  bool fits() const;
  // Whether the elements must be run one after the other: some lie in one
  // storage and are written, or may fail where others do not, and then those
  // before them are written.
  bool is_sequence() const;
  size_t size() const { return lists_[0].tensors.size(); }

  // Puts the arguments of element `e` alone onto `one`, lists of one.
  void push_element(size_t e, Stack& one) const;

  // Counts the writes of the first `num` elements in the versions of what they
  // are, if that is the op's task.
  void count_writes(size_t num) const;
  // As many elements as plain torch writes before it fails: those before the
  // first that it refuses; all where that cannot be told.
  size_t num_before_error() const;

 protected:
  // An argument that is no tensor; of one number for each element, theirs.
  c10::IValue numbers(size_t param, const std::vector<size_t>& elements) const;

  const Op& op_;
  Stack& stack_;
  const size_t base_;
  const bool is_fused_;
  std::vector<ListArg> lists_;
  std::vector<SharedArg> shared_;
  int num_slots_ = 0;  // tensors of the call

 private:
  bool is_uniform() const;
  bool overlaps_partly(size_t e) const;
};

// `_foreach_*_` counts its writes in the versions of what it writes, as the ops
// on the elements do in plain torch; other ops leave that to torch.
void count_write(const at::Tensor& tensor);
// After an error: those of the elements before the one that plain torch
// refuses; of all where that cannot be told.
void count_writes_before_error(const Op& op, Stack& stack);

}  // namespace torch_mesh

// list_call.cpp: elements are looked at one by one; nothing runs here.

#include "run/list_call.h"

#include <algorithm>

#include <ATen/MemoryOverlap.h>

#include "run/overlaps.h"
#include "run/stand_ins.h"

namespace torch_mesh {

ListCall::ListCall(const Op& op, Stack& stack)
    : op_(op),
      stack_(stack),
      base_(stack.size() - op.params.size()),
      is_fused_(op.base_name.rfind("aten::_fused_", 0) == 0) {
  for (size_t p = 0; p < op.params.size(); ++p) {
    if (op.params[p] == Op::ParamKind::kTensorList) {
      lists_.push_back(
          {p,
           op.schema.params[p].is_written,
           stack[base_ + p].toTensorVector(),
           num_slots_});
      num_slots_ += static_cast<int>(lists_.back().tensors.size());
    } else if (stack[base_ + p].isTensor() &&
               stack[base_ + p].toTensor().defined()) {
      shared_.push_back(
          {p,
           op.schema.params[p].is_written,
           stack[base_ + p].toTensor(),
           num_slots_++});
    }
  }
}

bool ListCall::fits() const {
  if (lists_.empty() || lists_[0].tensors.empty()) {
    return false;
  }
  for (const ListArg& list : lists_) {
    if (list.tensors.size() != size() && !list.tensors.empty()) {
      return false;
    }
  }
  return true;
}

bool ListCall::is_sequence() const {
  std::vector<ListOfCall> lists;
  for (const ListArg& list : lists_) {
    lists.push_back({&list.tensors, list.is_written});
  }
  return may_overlap(lists) || (!is_fused_ && !is_uniform());
}

// Whether what one element refuses all refuse: sizes of an element are the
// same, those of each list of one dtype, numbers of one kind, and no
// destination has one element in two places.
bool ListCall::is_uniform() const {
  const bool writes = lists_[0].is_written;
  for (const ListArg& list : lists_) {
    const size_t num = list.tensors.size();
    for (size_t e = 0; e < num; ++e) {
      const at::Tensor& tensor = list.tensors[e];
      if ((tensor.dim() > 0 &&
           tensor.sizes() != lists_[0].tensors[e].sizes()) ||
          (writes && tensor.scalar_type() != list.tensors[0].scalar_type()) ||
          (list.is_written && !tensor.is_non_overlapping_and_dense() &&
           at::has_internal_overlap(tensor) != at::MemOverlap::No)) {
        return false;
      }
    }
  }
  for (size_t p = 0; p < op_.params.size(); ++p) {
    const c10::IValue& value = stack_[base_ + p];
    if (op_.schema.params[p].name == "scalars" && value.isTensor()) {
      return false;  // one number for each element
    }
    if (writes && op_.params[p] != Op::ParamKind::kTensorList &&
        value.isList()) {
      const auto numbers = value.toListRef();
      const bool same = std::all_of(
          numbers.begin(), numbers.end(), [&](const c10::IValue& number) {
            return number.isDouble() == numbers[0].isDouble() &&
                   number.isInt() == numbers[0].isInt();
          });
      if (!same) {
        return false;
      }
    }
  }
  return true;
}

void ListCall::push_element(size_t e, Stack& one) const {
  size_t next_list = 0;
  for (size_t p = 0; p < op_.params.size(); ++p) {
    if (op_.params[p] != Op::ParamKind::kTensorList) {
      one.push_back(numbers(p, {e}));
      continue;
    }
    const ListArg& list = lists_[next_list++];
    c10::List<at::Tensor> part;
    if (!list.tensors.empty()) {
      part.push_back(list.tensors[e]);
    }
    one.emplace_back(std::move(part));
  }
}

c10::IValue ListCall::numbers(size_t p, const std::vector<size_t>& elements)
    const {
  const c10::IValue& value = stack_[base_ + p];
  if (value.isList()) {
    const auto list = value.toListRef();
    if (list.size() == size() && elements.size() != size()) {
      c10::impl::GenericList part(value.toList().elementType());
      for (size_t e : elements) {
        part.push_back(list[e]);
      }
      return part;
    }
  }
  return value;
}

void ListCall::count_writes(size_t num) const {
  if (!op_.counts_writes) {
    return;
  }
  for (const ListArg& list : lists_) {
    for (size_t e = 0; list.is_written && e < num; ++e) {
      count_write(list.tensors[e]);
    }
  }
}

size_t ListCall::num_before_error() const {
  if (!fits()) {
    return 0;
  }
  for (size_t e = 0; e < size(); ++e) {
    Stack one;
    push_element(e, one);
    if (overlaps_partly(e) || is_refused(op_, one)) {
      return e;
    }
  }
  return size();
}

// Whether what an element writes lies partly where it reads: all elementwise
// ops refuse that.
bool ListCall::overlaps_partly(size_t e) const {
  for (const ListArg& written : lists_) {
    for (const ListArg& other : lists_) {
      if (written.is_written && &other != &written &&
          e < other.tensors.size() &&
          at::get_overlap_status(written.tensors[e], other.tensors[e]) ==
              at::MemOverlapStatus::Partial) {
        return true;
      }
    }
  }
  return false;
}

void count_write(const at::Tensor& tensor) {
  if (!tensor.is_inference()) {
    tensor.unsafeGetTensorImpl()->bump_version();
  }
}

void count_writes_before_error(const Op& op, Stack& stack) {
  const ListCall call(op, stack);
  call.count_writes(call.num_before_error());
}

}  // namespace torch_mesh

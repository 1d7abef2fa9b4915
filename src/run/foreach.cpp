// foreach.cpp: lists together, or an element after the other.

#include "run/foreach.h"

#include <ATen/ops/linalg_vector_norm.h>

#include "rules/families.h"
#include "run/list_executor.h"
#include "tensor/pending_sums.h"

namespace torch_mesh {
namespace {

// Norms of elements: each is planned for itself, as a norm of one tensor, when
// the sums among them are formed in buckets.
bool run_norms(const Op& op, Stack& stack) {
  const size_t base = stack.size() - op.params.size();
  const auto tensors = stack[base].toTensorVector();
  const auto dtype = stack[base + 2].toOptional<c10::ScalarType>();
  std::vector<const at::Tensor*> all;
  for (const at::Tensor& tensor : tensors) {
    all.push_back(&tensor);
  }
  reduce_pending(all);
  c10::List<at::Tensor> norms;
  for (const at::Tensor& tensor : tensors) {
    norms.push_back(
        at::linalg_vector_norm(
            tensor, stack[base + 1].toScalar(), std::nullopt, false, dtype));
  }
  stack.resize(base);
  stack.emplace_back(std::move(norms));
  return true;
}

// Whether torch's own kernel for the CPU is a loop over the elements, which
// calls an op for each: on any device.
bool is_loop(const Op& op) {
  return !op.handle.hasKernelForDispatchKey(c10::DispatchKey::CPU) &&
         op.handle.hasKernelForDispatchKey(
             c10::DispatchKey::CompositeExplicitAutograd);
}

// On arguments of its own: the loop takes lists of numbers out of its stack.
void run_loop(const Op& op, Stack& stack, const ListCall& call) {
  const size_t base = stack.size() - op.params.size();
  Stack loop(stack.begin() + base, stack.end());
  try {
    op.handle.redispatchBoxed(
        c10::DispatchKeySet(c10::DispatchKey::CPU), &loop);
  } catch (const std::exception&) {
    call.count_writes(call.num_before_error());
    throw;
  }
  call.count_writes(call.size());
  stack.resize(base);
  std::move(loop.begin(), loop.end(), std::back_inserter(stack));
}

void run_in_sequence(const Op& op, Stack& stack, const ListCall& call) {
  for (size_t e = 0; e < call.size(); ++e) {
    Stack one;
    call.push_element(e, one);
    run_list(ListCall(op, one));
  }
  stack.resize(stack.size() - op.params.size());
}

}  // namespace

bool is_foreach_op(const std::string& name) {
  const bool is_norm = name.rfind("aten::_foreach_norm.", 0) == 0 &&
                       name.find("out") == std::string::npos;
  return is_norm || rules::is_elementwise_group(name);
}

bool run_foreach(const Op& op, Stack& stack) {
  if (op.base_name == "aten::_foreach_norm") {
    return run_norms(op, stack);
  }
  ListCall call(op, stack);
  if (!call.fits()) {
    return false;
  }
  if (!call.is_sequence()) {
    run_list(std::move(call));
  } else if (is_loop(op)) {
    run_loop(op, stack, call);
  } else {
    run_in_sequence(op, stack, call);
  }
  return true;
}

}  // namespace torch_mesh

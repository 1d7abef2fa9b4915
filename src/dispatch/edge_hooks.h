// edge_hooks.h: hooks of ours where a gradient arrives.

#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

namespace torch_mesh {

// The hook of this kind at the end of an edge, or nullptr. A kind keeps the
// number of the edge's input in `input`. Nodes may be in graphs of several
// threads: the caller holds the mutex of its kind.
template <typename Hook>
const Hook* hook_at(const torch::autograd::Edge& edge) {
  for (const auto& hook : edge.function->tensor_pre_hooks()) {
    const auto* ours = dynamic_cast<const Hook*>(hook.get());
    if (ours && ours->input == edge.input_nr) {
      return ours;
    }
  }
  return nullptr;
}

}  // namespace torch_mesh

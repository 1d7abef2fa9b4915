// local_program.h: a differentiable program of torch's own, run on the parts of
// a batch.
//
// What it computes for one element of the batch depends on no other, as in a
// recurrent layer. So each memory runs the program once, on all that it holds,
// under an autograd of its own: torch's kernels, forward and backward, at their
// speed. The whole is one node of the caller's graph.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch_mesh {

struct LocalProgram {
  using Tensors = std::vector<at::Tensor>;
  using Body = std::function<Tensors(const Tensors&)>;

  static constexpr int64_t kNoBatch = -1;   // a weight: whole on each device
  static constexpr int64_t kGathered = -2;  // made whole, however it is cut

  // How a result lies, of the whole as plain torch gives it.
  struct Result {
    int64_t batch_dim;
    std::vector<int64_t> order;  // dims, the outermost first
  };

  std::string name;  // of the op, for errors and counters
  Body local;        // on the tensors of one memory
  Body composed;     // on global tensors; differentiable any number of times
  std::vector<int64_t> batch_dims;  // of each input
  std::vector<Result> results;      // of as many dims as `order` names
  // How many elements the program forms and keeps for its backward, at least,
  // for the whole batch. Inputs that are cut elsewhere than along the batch are
  // made whole, once, where on no device the copies take more than that.
  int64_t kept = 0;
};

// Runs the program on the memories if its tensors lie so that it can: all
// global and on one mesh, of at most the batch cut or worth making whole.
// nullopt else, and where torch watches each op or each derivative: modes,
// transforms, dual tensors. `differentiable`: whether autograd records.
std::optional<LocalProgram::Tensors> run_on_memories(
    std::shared_ptr<const LocalProgram> program,
    const LocalProgram::Tensors& inputs,
    bool differentiable);

// Plain tensors among `inputs` as replicas on the mesh of the global ones, by a
// differentiable copy (law 13). False, with nothing done, if there is a tensor
// of another kind.
bool bring_to_mesh(LocalProgram::Tensors& inputs);

}  // namespace torch_mesh

// op.h: what the mesh device knows of one operator.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

#include "lower/lowered_plan.h"
#include "plan/element_plan.h"
#include "plan/plan_cache.h"
#include "rules/op_call.h"

namespace torch_mesh {

struct CallArgs;
struct Op;
using Stack = torch::jit::Stack;

// Runs a program of other ops (dispatch/program.h).
using ProgramKernel = bool (*)(const CallArgs& args);

// Runs an op on the tensors of one lane (run/local_kernel.h).
using LocalKernel = void (*)(const Op& op, Stack& stack);

// A parameter's name, of which a hash is made when the engine is compiled: ops
// that run without a plan read their arguments by name in a few instructions.
struct ParamName {
  // Not explicit: args["dim"].
  consteval ParamName(const char* name) : hash(hash_of(name)) {}

  // FNV-1a.
  static constexpr uint32_t hash_of(std::string_view name) {
    uint32_t hash = 2166136261u;
    for (const char c : name) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
    }
    return hash;
  }

  const uint32_t hash;
};

struct Op {
  explicit Op(const c10::OperatorHandle& handle) : handle(handle) {}

  // How a parameter enters the key of a call.
  enum class ParamKind : uint8_t {
    kTensor,
    kTensorList,          // Tensor[]
    kOptionalTensorList,  // Tensor?[]
    kNumber,              // Scalar: its type, not its value
    kDouble,              // only whether it is there
    kValue,               // int, bool, dtype, ... and lists of them
    kDevice,
    kIgnored,  // generators, ...
  };

  c10::OperatorHandle handle;
  OpSchema schema;
  std::vector<ParamKind> params;
  std::vector<uint32_t> param_hashes;  // of their names
  std::string base_name;               // "aten::add_"
  uint64_t hash = 0;                   // of its name; equal in all processes
  bool is_view = false;                // a result aliases an argument
  bool moves_no_data = false;          // a view, or made as one
  bool is_inplace_view = false;  // t_, squeeze_, ...: changes the metadata
  bool is_out = false;           // out= variant
  bool is_random = false;
  bool is_foreach = false;     // on lists, element by element
  bool counts_writes = false;  // in versions, which torch leaves to it
  // Whether local kernels may count on inputs as dense as the global ones.
  bool needs_dense = false;
  // A destination that overlaps itself or an argument is an error.
  bool checks_overlap = false;
  // A write over all of its first argument: copy_, fill_, normal_, ...
  bool overwrites = false;
  // By an argument that may be a number.
  bool divides = false;
  bool is_python = false;  // may have kernels in Python: runs on the caller
  // Takes its sizes from a tensor, and a device: zeros_like, new_full, ...
  bool makes_like = false;
  // With replicas alone it is the local op (run/replicas.h).
  bool runs_on_replicas = false;
  int memory_format_param = -1;
  ProgramKernel program = nullptr;            // always, before any plan
  ProgramKernel program_where_cut = nullptr;  // of a plan of kind kRewrite
  ProgramKernel variant = nullptr;            // by way of the functional op
  LocalKernel local_kernel = nullptr;         // nullptr: torch's as it is

  // Index of the parameter of this name, -1 if there is none.
  int param(ParamName name) const {
    const auto found =
        std::find(param_hashes.begin(), param_hashes.end(), name.hash);
    return found == param_hashes.end()
               ? -1
               : static_cast<int>(found - param_hashes.begin());
  }

  // Index of the parameter that is written and returned as `alias`.
  size_t written_param(int alias) const;

  mutable PlanCache<LoweredPlan> cache;
  mutable PlanCache<ElementPlan> element_cache;  // of an op on lists
};

}  // namespace torch_mesh

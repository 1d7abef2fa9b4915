// plan.h: what one op will do, as plain data.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <torch_mesh/redistribute.h>
#include <torch_mesh/rule.h>

#include "rules/op_call.h"

namespace torch_mesh {

struct Plan {
  enum class Kind : uint8_t {
    kLocal,      // the op itself, on shards
    kReplicate,  // the op itself, on replicas: no rule, or none that fits
    kRewrite,    // a short program of other ops stands for it
  };

  // A tensor argument: how it gets to the layout in which it is read.
  struct Input {
    Redistribution redistribution;
    bool operator==(const Input&) const = default;
  };

  struct Output {
    Layout layout;
    std::vector<int64_t> sizes;  // global; known for kLocal only
    bool operator==(const Output&) const = default;
  };

  // An int or int-list argument as each lane sees it.
  struct LocalArg {
    int arg;
    std::vector<std::vector<int64_t>> values;  // [lane][element]
    bool operator==(const LocalArg&) const = default;
  };

  Kind kind = Kind::kReplicate;
  Mesh mesh;
  std::vector<Input> inputs;    // one for each tensor of the call
  std::vector<Output> outputs;  // one for each returned tensor
  std::vector<LocalArg> local_args;
  // The axes along which local executions differ; lanes(executed_on) lists
  // them. Outputs that are P+ on one of these axes are sums over its lanes;
  // inputs that are P+ on one count once: the first device reads the value,
  // the others read -0.0.
  AxisMask executed_on = 0;
  // Multiplications, or elements for a pointwise op, of one lane.
  int64_t work = 0;

  // "0: slice@model 0 B -> (R, P+)"
  std::string str() const;
};

// The mesh of two tensors of an op; one without axes goes with any other.
// Throws [mixed-meshes].
Mesh common_mesh(const std::string& op, const Mesh& one, const Mesh& other);

// Decides how to run a call. `rule` may be null. All tensors of the call must
// have one mesh, or none.
//
// written   The tensors (by number) that the op writes: they keep their layout.
//
// Method: on each mesh axis in turn, the factor (or the partial sum that
// passes through, or nothing) which needs the fewest bytes received per device;
// what needs none wins over all else. A pure function of its arguments.
Plan plan_op(
    const OpCall& call,
    const Rule* rule,
    const std::vector<int>& written);

}  // namespace torch_mesh

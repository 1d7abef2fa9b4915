// op_call.h: one call of an op as plain data, as rules and the planner see it.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <torch_mesh/layout.h>

namespace torch_mesh {

// What a plan needs to know of one tensor.
struct TensorInfo {
  Layout layout;
  std::vector<int64_t> sizes;    // global
  std::vector<int64_t> strides;  // global, in elements
  int itemsize = 4;              // bytes
  // "f32", "i64", "b8", "bf16", "c64", ...
  const char* dtype = "f32";
  bool is_summable = true;  // floating or complex: may be P+
  // A destination of zeros that nobody has read: its layout is free.
  bool is_blank = false;
  // Of one element, which may make infinities of finite parts (law 8).
  bool is_unbounded = false;

  int64_t dim() const { return static_cast<int64_t>(sizes.size()); }
};

enum class ArgKind : uint8_t {
  kNone,
  kBool,
  kInt,
  kDouble,  // also complex numbers: their values never steer a plan
  kString,
  kIntList,  // also lists of bool
  kTensor,
  kTensorList,  // also lists of optional tensors: `present` says which are
                // there
  kOther,       // dtype, device, memory format, generator, ...
};

struct Arg {
  ArgKind kind = ArgKind::kNone;
  int64_t integer = 0;              // kBool, kInt
  double number = 0;                // kDouble
  std::string text;                 // kString
  std::vector<int64_t> ints;        // kIntList
  std::vector<TensorInfo> tensors;  // kTensor: one; kTensorList: those present
  std::vector<bool> present;        // kTensorList only

  bool is_none() const { return kind == ArgKind::kNone; }
};

// The part of an operator's schema that rules speak of.
struct OpSchema {
  struct Param {
    std::string name;
    bool is_tensor = false;       // Tensor, Tensor?
    bool is_tensor_list = false;  // Tensor[], Tensor?[]
    bool is_written = false;      // (a!)
    int alias = -1;               // the alias set, -1 for none
  };
  std::string name;  // "aten::add_.Tensor": with the overload, if it has one
  std::vector<Param> params;
  std::vector<Param> returns;
  bool is_pointwise = false;  // torch's own tag

  // Index of the parameter of this name, -1 if there is none.
  int param(const std::string& name) const {
    for (size_t i = 0; i < params.size(); ++i) {
      if (params[i].name == name) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }
};

// A call. `args` has one entry for each parameter of the schema. The *tensors*
// of a call are those of all args, in order, lists laid flat and absent
// optional ones left out; everything that says "tensor i" counts these.
struct OpCall {
  const OpSchema* schema = nullptr;
  std::vector<Arg> args;
  // An argument that is no tensor makes infinities of finite parts: parts of a
  // sum are not carried on (law 8).
  bool has_unbounded_number = false;
  // What the op itself says of the sizes of its results, lists laid flat;
  // nothing if it cannot say. May be empty, as in tests.
  std::function<std::optional<std::vector<std::vector<int64_t>>>()>
      result_sizes;

  std::vector<const TensorInfo*> tensors() const {
    std::vector<const TensorInfo*> all;
    for (const Arg& arg : args) {
      for (const TensorInfo& tensor : arg.tensors) {
        all.push_back(&tensor);
      }
    }
    return all;
  }
};

}  // namespace torch_mesh

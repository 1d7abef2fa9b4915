// program.h: the arguments of an op that a program of other ops stands for.

#pragma once

#include <initializer_list>
#include <optional>

#include "dispatch/op.h"

namespace torch_mesh {

// The last arguments of the stack, by name; `give` puts results in their place.
struct ProgramArgs {
  ProgramArgs(const Op& op, Stack& stack)
      : op(op), stack(stack), base(stack.size() - op.params.size()) {}

  c10::IValue& operator[](const char* name) const {
    return stack[base + op.schema.param(name)];
  }
  bool has(const char* name) const { return op.schema.param(name) >= 0; }
  at::Tensor tensor(const char* name) const { return (*this)[name].toTensor(); }
  std::optional<at::Tensor> optional_tensor(const char* name) const {
    const c10::IValue& value = (*this)[name];
    return value.isTensor() && value.toTensor().defined()
               ? std::optional(value.toTensor())
               : std::nullopt;
  }
  void give(std::initializer_list<c10::IValue> results) const {
    stack.resize(base);
    for (const c10::IValue& result : results) {
      stack.push_back(result);
    }
  }

  const Op& op;
  Stack& stack;
  const size_t base;
};

}  // namespace torch_mesh

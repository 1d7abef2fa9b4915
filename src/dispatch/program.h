// program.h: ops that stand for other ops, or act on storages alone: what they
// are given, and where the kernel finds them.
//
// What they do stands in src/program, above this folder.

#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dispatch/ops.h"

namespace torch_mesh {

// The last arguments of the stack, by name; `give` puts results in their place.
struct CallArgs {
  CallArgs(const Op& op, Stack& stack, bool under_autograd = false)
      : op(op),
        stack(stack),
        base(stack.size() - op.params.size()),
        under_autograd(under_autograd) {}

  c10::IValue& operator[](ParamName name) const {
    const int index = op.param(name);
    TORCH_INTERNAL_ASSERT_DEBUG_ONLY(index >= 0, op.schema.name);
    return stack[base + index];
  }
  bool has(ParamName name) const { return op.param(name) >= 0; }
  at::Tensor tensor(ParamName name) const {
    return std::as_const((*this)[name]).toTensor();
  }
  // Nothing if there is none, or an undefined one.
  std::optional<at::Tensor> optional_tensor(ParamName name) const {
    const c10::IValue& value = (*this)[name];
    return value.isTensor() && value.toTensor().defined()
               ? std::optional(value.toTensor())
               : std::nullopt;
  }
  bool is_there(ParamName name) const {
    const c10::IValue& value = (*this)[name];
    return value.isTensor() && value.toTensor().defined();
  }
  c10::ArrayRef<c10::IValue> all() const {
    return c10::ArrayRef<c10::IValue>(stack).slice(base, op.params.size());
  }
  // For calls of the op on other tensors.
  Stack copy() const {
    return Stack(stack.begin() + static_cast<ptrdiff_t>(base), stack.end());
  }

  // Puts the results in place of the arguments. True, as a program returns that
  // ran. By value: a result may be an argument.
  template <typename... Results>
  bool give(Results... results) const {
    stack.resize(base);
    (stack.emplace_back(std::move(results)), ...);
    return true;
  }
  bool give_list(std::vector<at::Tensor> results) const {
    stack.resize(base);
    for (at::Tensor& result : results) {
      stack.emplace_back(std::move(result));
    }
    return true;
  }
  // Runs the op itself on the arguments as they are by now.
  bool give_op() const {
    op.handle.callBoxed(stack);
    return true;
  }
  c10::IValue& result(size_t index) const { return stack[base + index]; }

  const Op& op;
  Stack& stack;
  const size_t base;
  const bool under_autograd;  // which records the ops that are called
};

struct Program {
  enum class When : uint8_t {
    kAlways,       // before any plan
    kMayDecline,   // the same; the calls that it declines are ordinary ones,
                   // which need no plan on replicas
    kWhereCut,     // where a plan says that a factor is cut which needs it
    kComposed,     // in place of torch's composition: under autograd, too
    kOut,          // of any op with out=; `name` is empty
    kInplaceView,  // of any op that changes metadata in place; the same
  };

  // Returns false, with the stack as it was, if this call is an ordinary one
  // after all.
  using Run = ProgramKernel;

  const char* name;  // "aten::mean.dim"
  When when;
  Run run;
};

// Lets `find_program` find these. Call before the first op runs.
void add_programs(std::span<const Program> programs);

// What stands for the op of this name then, or nullptr.
Program::Run find_program(const std::string& name, Program::When when);

}  // namespace torch_mesh

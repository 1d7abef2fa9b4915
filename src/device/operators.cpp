// operators.cpp: schemas read, kernels added.

#include "device/operators.h"

#include <algorithm>
#include <string>
#include <vector>

namespace torch_mesh {
namespace {

void keep(c10::RegistrationHandleRAII handle) {
  static auto* handles = new std::vector<c10::RegistrationHandleRAII>;
  handles->push_back(std::move(handle));
}

}  // namespace

bool takes_out(const c10::FunctionSchema& schema) {
  return std::any_of(
      schema.arguments().begin(),
      schema.arguments().end(),
      [](const c10::Argument& argument) { return argument.is_out(); });
}

bool takes_tensor(const c10::FunctionSchema& schema) {
  return std::any_of(
      schema.arguments().begin(),
      schema.arguments().end(),
      [](const c10::Argument& argument) {
        return !argument.is_out() &&
               argument.type()->str().find("Tensor") != std::string::npos;
      });
}

void add_kernel(
    const c10::OperatorName& name,
    c10::DispatchKey key,
    c10::KernelFunction kernel) {
  keep(
      c10::Dispatcher::singleton().registerImpl(
          name, key, std::move(kernel), std::nullopt, nullptr, "torch_mesh"));
}

void add_fallback(c10::DispatchKey key, c10::KernelFunction kernel) {
  keep(
      c10::Dispatcher::singleton().registerFallback(
          key, std::move(kernel), "torch_mesh"));
}

}  // namespace torch_mesh

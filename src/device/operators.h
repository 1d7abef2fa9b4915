// operators.h: what registration asks of torch's operators, and adds to them.

#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace torch_mesh {

// Whether a schema has an `out=` argument.
bool takes_out(const c10::FunctionSchema& schema);

// Whether a schema has a tensor, or a list of them, beside `out=`.
bool takes_tensor(const c10::FunctionSchema& schema);

// Gives an operator a kernel at `key`, for as long as the process lives.
void add_kernel(
    const c10::OperatorName& name,
    c10::DispatchKey key,
    c10::KernelFunction kernel);

// Gives all operators that have no kernel of their own at `key` this one.
void add_fallback(c10::DispatchKey key, c10::KernelFunction kernel);

}  // namespace torch_mesh

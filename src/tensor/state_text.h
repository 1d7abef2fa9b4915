// state_text.h: all that is known of a global tensor, as text.

#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// The state of a tensor and of its storage, without the values: what a question
// about the tensor must leave as it is. For tests: it names memory by address.
std::string state_text(const at::Tensor& tensor);

}  // namespace torch_mesh

// other_kinds.h: kinds of tensors that the mesh does not hold.

#pragma once

#include <string>

#include <ATen/core/Tensor.h>

namespace torch_mesh {

enum class OtherKind { kSparse, kNested, kQuantized };

// Says that the mesh has no tensors of this kind, and what to do.
[[noreturn]] void refuse(const std::string& op, OtherKind kind);

// Refuses a result of a local op that is no strided tensor.
void check_is_strided(const std::string& op, const at::Tensor& result);

}  // namespace torch_mesh

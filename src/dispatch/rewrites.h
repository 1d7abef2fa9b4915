// rewrites.h: ops which, along a sharded dim, are a short program of others.

#pragma once

#include "dispatch/op.h"

namespace torch_mesh {

using Rewrite = void (*)(const Op& op, Stack& stack);

// The program that stands for an op when a factor of kind kRewrite is sharded,
// or nullptr. It calls ops on global tensors, so each is planned in its turn.
Rewrite rewrite_of(const Op& op);

}  // namespace torch_mesh

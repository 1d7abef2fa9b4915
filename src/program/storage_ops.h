// storage_ops.h: ops on storages, which are no matter of rules: what is in
// memory, whose it is, and which tensor is which window on it.
//
// Each returns false, with the arguments as they were, if the call is to be
// planned as any other. storage_ops.cpp says which op is which.

#pragma once

#include <span>

#include "dispatch/program.h"

namespace torch_mesh {

// The table, for dispatch/program.h.
std::span<const Program> all_storage_ops();

namespace storage_ops {

// border.cpp
bool copy(const CallArgs& args);
bool local_scalar_dense(const CallArgs& args);
bool to_copy(const CallArgs& args);

// memory.cpp
bool empty_like(const CallArgs& args);
bool resize(const CallArgs& args);
bool resize_as(const CallArgs& args);
bool zero(const CallArgs& args);

// windows.cpp
bool alias(const CallArgs& args);
bool as_strided(const CallArgs& args);
bool is_set_to(const CallArgs& args);
bool lift_fresh(const CallArgs& args);
bool select(const CallArgs& args);
bool set_source_storage(const CallArgs& args);
bool set_source_tensor(const CallArgs& args);
bool slice(const CallArgs& args);

}  // namespace storage_ops
}  // namespace torch_mesh

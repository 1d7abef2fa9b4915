// local_ops.h: the state in which ops on shards run (law 10).

#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <torch_mesh/error.h>
#include <torch_mesh/mesh.h>

#include "trace/counters.h"

namespace torch_mesh {

// While one lives, ops called by this thread see no autograd, no
// ADInplaceOrView and no autocast of any backend. Intra-op threads,
// flush-denormal and inference mode stay the caller's.
class LocalOps {
  at::AutoDispatchBelowADInplaceOrView below_autograd_;
  c10::impl::ExcludeDispatchKeyGuard no_autocast_{
      c10::autocast_dispatch_keyset};
};

// Where torch keeps the shards of a mesh device: `cpu` for every cpu:<i>,
// `cuda:<i>` for gpu:<i>.
c10::Device torch_device(const Device& device);

// Throws the c10 exception that stands for an error of the core: ValueError,
// NotImplementedError, or Error.
[[noreturn]] void rethrow_for_torch(const CoreError& error);

// Runs `body` below autograd in the name of `op`, and lets errors of the core
// leave as torch's.
template <typename Body>
auto below_autograd(const std::string& op, const Body& body) {
  const LocalOps local;
  const CurrentOp current(op);
  try {
    return body();
  } catch (const CoreError& error) {
    rethrow_for_torch(error);
  }
}

}  // namespace torch_mesh

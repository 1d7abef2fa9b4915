// local_ops.h: the state in which ops on shards run (law 10).

#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/SmallVector.h>

#include <torch_mesh/error.h>
#include <torch_mesh/mesh.h>

namespace torch_mesh {

// One local tensor for each lane of a layout.
using Shards = c10::SmallVector<at::Tensor, 2>;

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

}  // namespace torch_mesh

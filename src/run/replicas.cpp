// replicas.cpp: the shards in, one local op, global tensors out.

#include "run/replicas.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "run/arguments.h"
#include "run/list_call.h"
#include "run/local_kernel.h"
#include "run/other_kinds.h"
#include "run/overlaps.h"
#include "run/packing.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

using Replicas = c10::SmallVector<const Shards*, 6>;

// The shards of each tensor of the call, nullptr for plain numbers; their
// layout. Nothing if the tensors are not all replicated, or not all in place.
const Layout* find_replicas(
    const Op& op,
    const CallTensors& tensors,
    Replicas& replicas) {
  const Layout* layout = nullptr;
  for (const CallTensors::Entry& entry : tensors.entries) {
    const at::Tensor& tensor = *entry.tensor;
    if (!entry.is_global) {
      if (entry.is_written || tensor.dim() != 0 || !tensor.is_cpu()) {
        return nullptr;
      }
      replicas.push_back(nullptr);
      continue;
    }
    if (entry.is_written && op.overwrites && is_unwritten(tensor) &&
        !is_blank(tensor) && layout_of(tensor).is_replicated()) {
      read(tensor);  // memory for the values to come
    }
    const Shards* shards = settled_shards(tensor);
    if (!shards || shards->size() != 1 || !(*shards)[0].defined()) {
      return nullptr;
    }
    const GlobalMeta& meta = meta_of(tensor);
    if (layout ? meta.layout != *layout : !meta.layout.is_replicated()) {
      return nullptr;
    }
    if (meta.is_write_back && !tensor.is_non_overlapping_and_dense()) {
      return nullptr;  // its copy lies in another way
    }
    if (entry.is_written && (meta.is_write_back ||
                             MeshStorage::of(tensor)->state().is_borrowed())) {
      return nullptr;
    }
    layout = &meta.layout;
    replicas.push_back(shards);
  }
  return layout;
}

at::Tensor pack(
    const Op& op,
    const Layout& layout,
    const Replicas& replicas,
    at::Tensor result) {
  if (!result.defined()) {
    return result;
  }
  check_is_strided(op.schema.name, result);
  Shards results{std::move(result)};
  auto is_of_an_argument = [&](const Shard& local) {
    return std::any_of(
        replicas.begin(), replicas.end(), [&](const Shards* shards) {
          return shards && lies_in(local, *shards);
        });
  };
  if (leaves_gaps(results, is_of_an_argument)) {
    return make_with_gaps(layout, std::move(results));
  }
  make_dense(results, /*side_by_side=*/false);
  const Shard first = results[0];
  return make_global(
      layout,
      first.sizes(),
      first.strides(),
      first.scalar_type(),
      std::move(results));
}

// For tests of the executor, which then runs all.
bool is_off() {
  static const bool off = [] {
    const char* executor = std::getenv("TORCH_MESH_EXECUTOR");
    return executor && std::string_view(executor) == "plain";
  }();
  return off;
}

}  // namespace

bool run_on_replicas(const Op& op, const CallTensors& tensors, Stack& stack) {
  if (is_off()) {
    return false;
  }
  Replicas replicas;
  const Layout* found = find_replicas(op, tensors, replicas);
  if (!found || is_explaining()) {
    return false;
  }
  const Layout layout = *found;  // a write may end the tensor's own
  const size_t base = stack.size() - op.params.size();
  const c10::ArrayRef<c10::IValue> args(stack.data() + base, op.params.size());
  Stack local;
  local.reserve(args.size());
  push_arguments(
      op,
      args,
      torch_device(layout.mesh().devices()[0]),
      local,
      [&](const at::Tensor& tensor, size_t, size_t n) -> const at::Tensor& {
        return replicas[n] ? (*replicas[n])[0].local() : tensor;
      });
  if (tensors.any_written && op.checks_overlap) {
    unite_places(op, local);
  }
  const auto end_writes = [&] {
    // Of a list, the elements before the one that failed are written.
    for (const CallTensors::Entry& entry : tensors.entries) {
      if (entry.is_written) {
        end_write(*entry.tensor);
      }
    }
    if (op.counts_writes) {
      count_writes_before_error(op, stack);
    }
  };
  try {
    run_local(op, local);
  } catch (c10::Error& error) {
    end_writes();
    error.add_context(context_of(op, tensors, layout.mesh()));
    throw;
  } catch (const std::exception&) {
    end_writes();
    throw;
  }
  for (size_t i = 0; tensors.any_written && i < replicas.size(); ++i) {
    const CallTensors::Entry& entry = tensors.entries[i];
    if (entry.is_written) {
      if ((*replicas[i])[0].sizes() != entry.tensor->sizes()) [[unlikely]] {
        take_size(*entry.tensor, *replicas[i], layout.mesh());
        replicas[i] = nullptr;  // the tensor has others now
      } else {
        end_write(*entry.tensor);
      }
      if (op.counts_writes) {
        count_write(*entry.tensor);
      }
    }
  }
  for (size_t r = 0; r < local.size(); ++r) {
    const OpSchema::Param& returned = op.schema.returns[r];
    c10::IValue& result = local[r];
    if (returned.is_written) {
      result = args[op.written_param(returned.alias)];
    } else if (returned.is_tensor) {
      result = pack(op, layout, replicas, std::move(result).toTensor());
    } else if (returned.is_tensor_list) {
      c10::List<at::Tensor> list;
      for (const c10::IValue& element : result.toListRef()) {
        list.push_back(pack(op, layout, replicas, element.toTensor()));
      }
      result = std::move(list);
    }
  }
  stack.resize(base);
  for (c10::IValue& result : local) {
    stack.push_back(std::move(result));
  }
  return true;
}

}  // namespace torch_mesh

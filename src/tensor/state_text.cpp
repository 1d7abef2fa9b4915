// state_text.cpp: the fields of storages and windows in words.

#include "tensor/state_text.h"

#include <mutex>
#include <sstream>

#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

void write_shards(std::ostream& out, const Shards& shards) {
  for (size_t lane = 0; lane < shards.size(); ++lane) {
    const Shard& shard = shards[lane];
    out << "  lane " << lane << ": ";
    if (shard.defined()) {
      out << shard.scalar_type() << shard.sizes() << " strides "
          << shard.strides() << " offset " << shard.storage_offset()
          << " memory " << shard.memory() << "\n";
    } else {
      out << "elsewhere\n";
    }
  }
}

void write_storage(std::ostream& out, MeshStorage& storage) {
  std::lock_guard lock(storage.mutex);
  out << "storage " << storage.layout().str() << " " << storage.dtype()
      << storage.base_sizes() << " strides " << storage.base_strides() << "\n  "
      << storage.state().str() << "\n";
  write_shards(out, storage.shards());
}

}  // namespace

std::string state_text(const at::Tensor& tensor) {
  std::ostringstream out;
  write_storage(out, *MeshStorage::of(tensor));
  const GlobalMeta& meta = meta_of(tensor);
  out << (meta.is_write_back ? "write-back " : "alias ") << meta.layout.str()
      << " " << tensor.scalar_type() << tensor.sizes() << " strides "
      << tensor.strides() << " offset " << tensor.storage_offset()
      << (tensor.is_conj() ? " conjugated" : "")
      << (tensor.is_neg() ? " negated" : "") << "\n  offsets " << meta.offsets
      << "\n  generations: memory " << meta.memory_generation << ", layout "
      << meta.layout_generation << ", value " << meta.value_generation << "\n";
  if (!tensor.is_inference()) {
    out << "  version " << tensor._version() << "\n";
  }
  write_shards(out, meta.shards);
  return out.str();
}

}  // namespace torch_mesh

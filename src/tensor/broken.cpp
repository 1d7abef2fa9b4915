// broken.cpp: storages that an error left half written.

#include <mutex>
#include <utility>

#include "tensor/global_tensor.h"

namespace torch_mesh {

void mark_broken(const at::Tensor& tensor, const std::string& error) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  std::lock_guard lock(storage.mutex);
  if (!storage.broken) {
    storage.broken = std::make_shared<const std::string>(error);
    ++storage.memory_generation;
  }
}

std::shared_ptr<const std::string> heal(const at::Tensor& tensor) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  if (storage.memory_generation == 0) {
    return nullptr;
  }
  std::lock_guard lock(storage.mutex);
  if (storage.broken &&
      tensor.numel() * static_cast<int64_t>(tensor.itemsize()) ==
          static_cast<int64_t>(storage.nbytes())) {
    return std::exchange(storage.broken, nullptr);
  }
  return nullptr;
}

}  // namespace torch_mesh

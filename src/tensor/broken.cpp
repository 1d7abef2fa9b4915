// broken.cpp: storages that an error left half written.

#include <exception>
#include <mutex>
#include <utility>

#include <c10/util/Exception.h>

#include "tensor/global_tensor.h"
#include "trace/counters.h"

namespace torch_mesh {

void check_not_broken(MeshStorage& storage) {
  std::shared_ptr<const std::string> broken;
  {
    std::lock_guard lock(storage.mutex);
    broken = storage.broken();
  }
  if (broken) {
    raise_broken(*broken);
  }
}

void raise_broken(const std::string& first_error) {
  TORCH_CHECK(
      false,
      CurrentOp::name(),
      ": the tensor was left half written by an error.\n  first error  ",
      first_error,
      "\nHint: write all of it, with copy_ or fill_. [broken-tensor]");
}

std::string text_of_this_error() {
  try {
    throw;
  } catch (const c10::Error& raised) {
    return raised.what_without_backtrace();
  } catch (const std::exception& raised) {
    return raised.what();
  } catch (...) {
    return "an error without a text";
  }
}

void mark_broken(const at::Tensor& tensor, const std::string& error) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  std::lock_guard lock(storage.mutex);
  storage.break_value(std::make_shared<const std::string>(error));
}

std::shared_ptr<const std::string> heal(const at::Tensor& tensor) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  if (storage.state().memory_generation() == 0) {
    return nullptr;
  }
  std::lock_guard lock(storage.mutex);
  if (storage.broken() &&
      tensor.numel() * static_cast<int64_t>(tensor.itemsize()) ==
          static_cast<int64_t>(storage.nbytes())) {
    return storage.heal();
  }
  return nullptr;
}

}  // namespace torch_mesh

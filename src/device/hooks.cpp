// hooks.cpp: the device guard, generators, pinned memory and storages.

#include "device/hooks.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "dispatch/autograd_thread.h"
#include "tensor/storage.h"

namespace torch_mesh {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;

// One device, index 0, on one default stream: devices inside the mesh are not
// torch's business (law 12).
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return {kType, 0}; }
  c10::Device getDevice() const override { return {kType, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return stream;
  }
  void synchronizeDevice(const c10::DeviceIndex) const override {
    if (at::globalContext().hasCUDA()) {
      const auto& cuda = at::detail::getCUDAHooks();
      for (c10::DeviceIndex i = 0; i < cuda.deviceCount(); ++i) {
        cuda.deviceSynchronize(i);
      }
    }
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return autograd_is_prepared() ? 1 : 0;
  }
};

// Random numbers come from torch's CPU generator, so that they are those of the
// plain program; pinned memory belongs to the machine's real accelerator.
struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::detail::createCPUGenerator();
  }
  at::Allocator* getPinnedMemoryAllocator() const override {
    return at::detail::getCUDAHooks().getPinnedMemoryAllocator();
  }
  void resizePrivateUse1Bytes(const c10::Storage&, size_t) const override {
    TORCH_CHECK(
        false,
        "resize_: storages on the mesh cannot be resized by themselves.\n"
        "Hint: resize_ the tensor, or drop it to free its memory. "
        "[storage-resize]");
  }
  bool isPinnedPtr(const void* data) const override {
    return at::globalContext().hasCUDA() &&
           at::detail::getCUDAHooks().isPinnedPtr(data);
  }
};

// Addresses, no memory: shards are allocated by the ops that make them. So what
// `torch.accelerator` asks of an allocator is told by `torch.mesh`.
struct AddressAllocator final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t num_bytes) override {
    return {unique_address(num_bytes), c10::Device(kType, 0)};
  }
  void copy_data(void*, const void*, size_t) const override {}
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(
      c10::DeviceIndex) override {
    refuse();
  }
  void resetAccumulatedStats(c10::DeviceIndex) override { refuse(); }
  void resetPeakStats(c10::DeviceIndex) override { refuse(); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex) override {
    refuse();
  }

 private:
  [[noreturn]] static void refuse() {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false,
        "torch.accelerator: the mesh is several devices, each with memory of "
        "its own.\n"
        "Hint: torch.mesh.memory_allocated, max_memory_allocated, "
        "memory_stats, mem_get_info and reset_peak_memory_stats tell of the "
        "fullest one. [accelerator-memory]");
  }
};

// Storages that torch makes itself, in torch.load and deepcopy.
c10::intrusive_ptr<c10::StorageImpl> make_storage(
    c10::StorageImpl::use_byte_size_t,
    c10::SymInt num_bytes,
    c10::DataPtr,
    c10::Allocator*,
    bool) {
  return c10::make_intrusive<MeshStorage>(
      static_cast<size_t>(num_bytes.expect_int()));
}

}  // namespace

void register_hooks() {
  static Guard* guard = new Guard;
  static c10::impl::DeviceGuardImplRegistrar registrar(kType, guard);
  static AddressAllocator* allocator = new AddressAllocator;
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  c10::SetAllocator(kType, allocator);
  c10::SetStorageImplCreate(kType, &make_storage);
}

}  // namespace torch_mesh

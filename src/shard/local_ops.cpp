// local_ops.cpp: where shards live, and how errors of the core leave.

#include "shard/local_ops.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>

namespace torch_mesh {
namespace {

c10::Device present(c10::DeviceType type, const Device& device) {
  const int num_devices =
      c10::impl::hasDeviceGuardImpl(type)
          ? c10::impl::getDeviceGuardImpl(type)->deviceCount()
          : 0;
  TORCH_MESH_CHECK_VALUE(
      device.index < num_devices,
      "no-such-device",
      "the mesh has the device ",
      device.str(),
      ", and this machine has ",
      num_devices,
      " of that kind.\nHint: take names from torch_mesh.list_devices().");
  return {type, static_cast<c10::DeviceIndex>(device.index)};
}

}  // namespace

c10::Device torch_device(const Device& device) {
  switch (device.kind) {
    case DeviceKind::kCpu:
    case DeviceKind::kNull:
      return c10::Device(c10::kCPU);
    case DeviceKind::kGpu:
      return present(c10::kCUDA, device);
    case DeviceKind::kTpu:
      return present(c10::kXLA, device);
  }
  TORCH_MESH_ASSERT(false, "a device of no kind");
}

void rethrow_for_torch(const CoreError& error) {
  switch (error.kind) {
    case ErrorKind::kValue:
      C10_THROW_ERROR(ValueError, error.what());
    case ErrorKind::kNotSupported:
      C10_THROW_ERROR(NotImplementedError, error.what());
    case ErrorKind::kProcess:
    case ErrorKind::kBug:
      break;
  }
  C10_THROW_ERROR(Error, error.what());
}

}  // namespace torch_mesh

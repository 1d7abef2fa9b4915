// device_index.h: there is one mesh device.

#pragma once

#include <c10/core/Device.h>

namespace torch_mesh {

// Throws [device-index] if `device` is a mesh device of another index than 0.
void check_device_index(c10::Device device);

}  // namespace torch_mesh

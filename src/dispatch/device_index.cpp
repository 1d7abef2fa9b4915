// device_index.cpp: indices of mesh devices, refused alike everywhere.

#include "dispatch/device_index.h"

#include <c10/util/Exception.h>

namespace torch_mesh {

void check_device_index(c10::Device device) {
  TORCH_CHECK(
      !device.is_privateuseone() || device.index() <= 0,
      "there is one mesh device, and it has the index 0, not ",
      static_cast<int>(device.index()),
      ".\nHint: device=\"mesh\"; the devices inside of it are those of a "
      "torch_mesh.Mesh. [device-index]");
}

}  // namespace torch_mesh

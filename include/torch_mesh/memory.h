// memory.h: how many bytes of global tensors each device holds.
//
//   torch_mesh::CountingMemory memory;
//   auto w = torch_mesh::zeros(layout, {1000, 1000}, at::kFloat);
//   memory.so_far().peak["cpu:3"];

#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include <ATen/core/TensorBody.h>

namespace torch_mesh {

// Bytes of shards by device, "cpu:3".
struct HeldBytes {
  std::map<std::string, int64_t> now;
  std::map<std::string, int64_t> peak;
};

// Counts the shards of global tensors that are made while it lives, on any
// thread. A replica counts on each of its devices, also where devices of one
// memory share it; a window on a batch counts as what it shows. Temporaries of
// local ops are not counted.
//
// Threads: all members may be called from any thread. Several may live at once.
class CountingMemory {
 public:
  CountingMemory();
  ~CountingMemory();
  CountingMemory(const CountingMemory&) = delete;
  CountingMemory& operator=(const CountingMemory&) = delete;

  // Since construction. Devices that never held anything are left out.
  HeldBytes so_far() const;

  struct Session;

 private:
  Session* session_;
};

// All that the devices hold, and the most since the first call or the last
// reset_peak_memory(). Counting begins with the first call, with what `living`
// holds: all global tensors that the caller can find.
HeldBytes memory_of_process(std::span<const at::Tensor> living);
// Whether it has begun: then `living` is not looked at.
bool is_memory_counted();
void reset_peak_memory();

}  // namespace torch_mesh

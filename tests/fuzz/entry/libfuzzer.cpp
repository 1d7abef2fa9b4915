// libfuzzer.cpp: what libFuzzer calls; one executable for each property.

#include "fuzz/properties.h"

// NOLINTNEXTLINE(readability-identifier-naming)
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  torch_mesh::fuzz::Bytes bytes({data, size});
  torch_mesh::fuzz::TORCH_MESH_PROPERTY(bytes);
  return 0;
}

// hash.h: numbers that stand for what a process does: FNV-1a of 64 bits, equal
// in all processes, which std::hash need not be.

#pragma once

#include <cstdint>
#include <string_view>

namespace torch_mesh {

inline constexpr uint64_t kEmptyHash = 0xcbf29ce484222325u;

constexpr uint64_t mixed(uint64_t hash, uint64_t number) {
  return (hash ^ number) * 0x100000001b3u;
}

constexpr uint64_t mixed(uint64_t hash, std::string_view bytes) {
  for (const char c : bytes) {
    hash = mixed(hash, uint64_t{static_cast<unsigned char>(c)});
  }
  return hash;
}

}  // namespace torch_mesh

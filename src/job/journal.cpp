// journal.cpp: a number for each mesh.

#include "job/journal.h"

#include <mutex>
#include <unordered_map>

namespace torch_mesh {
namespace {

// FNV-1a, 64 bits: equal in all processes, which std::hash need not be.
uint64_t mixed(uint64_t hash, std::string_view bytes) {
  for (const char c : bytes) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  return hash;
}

std::mutex& mutex = *new std::mutex;
auto& journals = *new std::unordered_map<Mesh, uint64_t>;

}  // namespace

Stamp note_step(const Mesh& mesh, std::string_view text) {
  Stamp stamp;
  stamp.set_text(text);
  const std::lock_guard lock(mutex);
  uint64_t& hash = journals[mesh];
  hash = stamp.hash = mixed(hash, text);
  return stamp;
}

void note(const Mesh& mesh, uint64_t what) {
  const std::lock_guard lock(mutex);
  uint64_t& hash = journals[mesh];
  hash = (hash ^ what) * 0x100000001b3u;
}

}  // namespace torch_mesh

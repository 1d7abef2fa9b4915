// journal.cpp: a number for each mesh.

#include "job/journal.h"

#include <mutex>
#include <unordered_map>

#include "job/hash.h"

namespace torch_mesh {
namespace {

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
  hash = mixed(hash, what);
}

}  // namespace torch_mesh

// journal.cpp: a number for each mesh.

#include "job/journal.h"

#include <mutex>
#include <unordered_map>

#include "job/hash.h"

namespace torch_mesh {
namespace {

std::mutex& mutex = *new std::mutex;
auto& journals = *new std::unordered_map<Mesh, uint64_t>;

constinit thread_local uint64_t* branch = nullptr;

// What a thread notes into.
class Journal {
 public:
  explicit Journal(const Mesh& mesh)
      : lock_(mutex), hash_(branch ? *branch : journals[mesh]) {}
  uint64_t& hash() { return hash_; }

 private:
  const std::lock_guard<std::mutex> lock_;
  uint64_t& hash_;
};

}  // namespace

Stamp note_step(const Mesh& mesh, std::string_view text) {
  Stamp stamp;
  stamp.set_text(text);
  Journal journal(mesh);
  journal.hash() = stamp.hash = mixed(journal.hash(), text);
  return stamp;
}

void note(const Mesh& mesh, uint64_t what) {
  Journal journal(mesh);
  journal.hash() = mixed(journal.hash(), what);
}

uint64_t begin_branch(const Mesh& mesh) {
  Journal journal(mesh);
  return journal.hash() = mixed(journal.hash(), 1);
}

OnBranch::OnBranch(uint64_t hash) : hash_(hash) { branch = &hash_; }

OnBranch::~OnBranch() { branch = nullptr; }

}  // namespace torch_mesh

// communicator.cpp: who serves a mesh.

#include "comm/communicator.h"

#include <atomic>

#include "comm/by_exchange.h"
#include "comm/held_locks.h"
#include "comm/null.h"

namespace torch_mesh {
namespace {

std::atomic<Communicator*> for_testing{nullptr};

}  // namespace

Communicator& communicator_of(const Mesh& mesh) {
  check_no_lock_is_held("a collective");
  if (Communicator* other = for_testing.load(std::memory_order_relaxed)) {
    return *other;
  }
  return mesh.is_null() ? null_communicator() : communicator_by_exchange();
}

void set_communicator_for_testing(Communicator* communicator) {
  for_testing = communicator;
}

}  // namespace torch_mesh

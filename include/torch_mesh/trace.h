// trace.h: what ran, in numbers: ops, plans made, collectives and bytes.
//
//   torch_mesh::Counting counting;
//   loss.backward();
//   counting.so_far().collectives["all_reduce@data"];

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace torch_mesh {

// One collective as it ran.
struct CollectiveEvent {
  std::string kind;   // "all_reduce"
  std::string axis;   // name of the mesh axis
  int64_t num_bytes;  // received per device
  std::string op;     // the op that needed it
};

struct Counts {
  std::map<std::string, int64_t> collectives;  // "all_reduce@data" -> number
  // The same keys -> bytes received per device, were no two in one memory.
  std::map<std::string, int64_t> num_bytes;
  // Those of collectives along axes between processes alone.
  std::map<std::string, int64_t> num_bytes_between_processes;
  // The same keys -> collectives that the communicator was called for: the same
  // number, but none where all devices share a memory.
  std::map<std::string, int64_t> calls;
  // Device -> bytes that its collectives bring from other memories, by plan,
  // and bytes that it has read there: the same. None in one memory.
  std::map<std::string, int64_t> received;
  std::map<std::string, int64_t> moved;
  // Ops computed on replicas for want of a rule though a tensor was sharded.
  std::map<std::string, int64_t> replicated_ops;
  int64_t ops = 0;                      // ops that reached the mesh device
  int64_t plans_made = 0;               // plans not found in a cache
  std::vector<CollectiveEvent> events;  // only while events are kept
};

// Threads: all functions here may be called from any thread, and count what
// runs on any.

// Totals since the process began, without events.
Counts counts();

// Counts from its construction on, and keeps events while it lives.
class Counting {
 public:
  Counting();
  ~Counting();
  Counting(const Counting&) = delete;
  Counting& operator=(const Counting&) = delete;

  // Only what happened is named: no key has the number 0.
  Counts so_far() const;

 private:
  Counts before_;
  size_t first_event_;
};

// Level of TORCH_MESH_LOG: 0 off (warnings only), 1 info, 2 debug.
int log_level();
void set_log_level(int level);

}  // namespace torch_mesh

// shared_memory.h: the transport between processes of one host.
//
// Each process owns a segment (segment.h) with a ring (ring.h) for each of the
// others, which write there. A process that waits sleeps on a word of its own
// segment; others wake it where they see that it sleeps.

#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <vector>

#include "job/message.h"
#include "job/segment.h"
#include "job/store.h"
#include "job/transport.h"

namespace torch_mesh {

class SharedMemoryPeer;

class SharedMemory final : public Transport {
 public:
  // Of all segments of a job on one host. For more than 23 processes there it
  // has no place even for the least rings.
  static constexpr size_t kDefaultBudget = size_t{32} << 20;

  // Collective among all processes of the job: each calls it once. Finds those
  // that share memory with this one, which both sides then know. There may be
  // none, as where the system has no memory left for it: then nothing is kept.
  // Throws what `store` throws. Nothing is left in /dev/shm, unless the process
  // is killed in the moment in which all are here and files have names.
  //
  //   job     its random number, the same in all processes
  //   budget  bytes, of the segments of all that share memory together
  static std::unique_ptr<SharedMemory> open(
      Store& store,
      int process,
      int num_processes,
      uint64_t job,
      size_t budget = kDefaultBudget);
  ~SharedMemory() override;

  int place() const override { return 0; }

  // Whether memory is shared with that process. The same on both sides.
  bool serves(int process) const;

  // As transport.h says, with processes that are served. Throw [forked-process]
  // in a forked child, which has no part of the memory, and [peer-lost] where a
  // peer has damaged it.
  void begin(
      const Stamp& stamp,
      std::span<const Outgoing> sends,
      std::span<const Incoming> receives) override;
  void finish() override;
  void abandon(std::exception_ptr error) noexcept override;

 private:
  SharedMemory(int process, int num_processes, uint64_t job);
  void connect(Store& store, size_t budget);

  void check_usable() const;
  template <typename Work>
  void or_broken(const Work& work);
  bool progress();
  void sleep();

  const int process_;
  const uint64_t job_;
  const pid_t pid_;
  std::unique_ptr<Segment> mine_;
  // By process; nullptr for those that are not served.
  std::vector<std::unique_ptr<SharedMemoryPeer>> peers_;

  // Of the exchange that is under way.
  bool is_begun_ = false;
  Stamp stamp_;
  std::vector<SharedMemoryPeer*> active_;          // those not done yet
  std::chrono::steady_clock::time_point checked_;  // when waits were
  std::exception_ptr broken_;
};

}  // namespace torch_mesh

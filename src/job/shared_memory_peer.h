// shared_memory_peer.h: a process that shares memory with this one, and what is
// left of the messages between the two.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "job/message.h"
#include "job/ring.h"
#include "job/segment.h"
#include "job/waiting.h"

namespace torch_mesh {

// A message that is under way: the head, then runs of bytes.
template <typename Byte>
struct MessageParts {
  MessageHead head;  // to send; or as it came
  std::vector<std::span<Byte>> runs;
  size_t next = 0;          // of `runs`, which is cut as its bytes move
  uint64_t num_before = 0;  // messages
  uint64_t num_bytes = 0;   // of the runs
  bool is_under_way = false;

  void add(std::span<Byte> bytes);
  bool is_done() const { return next == runs.size(); }
};

class SharedMemoryPeer {
 public:
  // `theirs` is that process's segment, whose ring number `ring` is for this
  // process; the peer's ring in `mine` has number `ring_of_mine`.
  SharedMemoryPeer(
      int process,
      std::unique_ptr<Segment> theirs,
      size_t ring,
      const Segment& mine,
      size_t ring_of_mine);

  int process() const { return process_; }
  // What the next exchange moves; nothing of it is read or written yet.
  void add_send(std::span<const std::byte> bytes);
  void add_receive(std::span<std::byte> bytes);
  // Gives the messages their heads. Returns whether there are any.
  bool start(uint64_t job, const Stamp& stamp);

  // Move what they can without waiting, and wake the peer where that helps it.
  // Return whether anything moved. `receive` throws what check_head throws, and
  // both [peer-lost].
  bool send();
  bool receive();
  bool is_done() const { return outgoing_.is_done() && incoming_.is_done(); }

  // For a thread that sleeps until this process comes: as Wait says, counted
  // from the first call since anything moved.
  void begin_wait();
  void check_wait(const char* doing);

 private:
  template <typename Byte, typename Transfer, typename Publish, typename Ended>
  bool move(
      MessageParts<Byte>& message,
      const Transfer& transfer,
      const Publish& publish,
      const Ended& ended);

  const int process_;
  const std::unique_ptr<Segment> theirs_;
  RingWriter writer_;
  RingReader reader_;
  // Bytes after which the other side is told: it copies while this one does.
  const size_t num_at_once_;

  MessageParts<const std::byte> outgoing_;
  MessageParts<std::byte> incoming_;
  MessageHead expected_;
  std::optional<Wait> wait_;
};

}  // namespace torch_mesh

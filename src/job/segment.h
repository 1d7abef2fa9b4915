// segment.h: memory that processes of one host share.
//
// Its owner makes it under a random name and with a random token inside. Who
// can tell the token shares the memory, whatever names the hosts have and
// whichever containers the processes run in.
//
// Nothing here throws CoreError: where memory cannot be shared there is none,
// and something else carries the bytes.
//
// Threads: one at a time.

#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "job/ring.h"

namespace torch_mesh {

// Sizes of a segment with a ring for each of some senders. Plain data.
struct SegmentShape {
  size_t num_rings = 0;
  size_t ring_bytes = 0;  // a power of 2

  static constexpr size_t kLeastRing = size_t{64} << 10;
  static constexpr size_t kLargestRing = size_t{1} << 20;
  // The one with the largest rings that takes at most `budget` bytes; one
  // without any where not even the least ring has a place.
  static SegmentShape within(size_t budget, size_t num_rings);

  bool is_possible() const;
  size_t offset_of_ring(size_t ring) const;
  size_t num_bytes() const { return offset_of_ring(num_rings); }
};

class Segment {
 public:
  // A new one, without rings yet; nullptr if there is no place for it.
  static std::unique_ptr<Segment> create();
  // Another process's; nullptr if there is none of this name, or if it is not
  // one that only this user's processes can write.
  static std::unique_ptr<Segment> open(const std::string& name);
  ~Segment();

  const std::string& name() const { return name_; }
  // As it stood in the memory when it was made, or opened.
  const std::string& token() const { return token_; }

  // For the owner: reserves the rings, so that no access can fail later. False
  // if there is no place.
  bool reserve(const SegmentShape& shape);
  // Maps the rings; from then on the members below may be called. False if it
  // has not the size of that shape, or cannot be mapped.
  bool map(const SegmentShape& shape);
  // Takes the name away; the memory lives as long as somebody maps it.
  void unlink();

  RingPositions& positions(size_t ring) const;
  std::span<std::byte> bytes(size_t ring) const;

  // For the owner. Between the two calls it looks a last time whether there is
  // something to do; what other processes do later ends the sleep.
  //
  //   result  false if the time was over, or a signal came
  void announce_sleep();
  bool sleep(std::chrono::milliseconds most);
  void end_sleep();
  // Wakes the owner, if it sleeps.
  void ring_doorbell() const;

 private:
  struct Header;
  struct Mapping {
    std::byte* data = nullptr;
    size_t size = 0;
  };

  Segment(std::string name, int file, bool is_mine);
  bool remap(size_t size);
  void unmap();
  Header& header() const;

  std::string name_;
  std::string token_;
  int file_;
  bool is_linked_;
  // A forked child has no mapping, and must not take away the name.
  const pid_t pid_;
  Mapping mapping_;
  SegmentShape shape_;
  uint32_t doorbell_seen_ = 0;
};

}  // namespace torch_mesh

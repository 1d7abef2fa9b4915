// ring.h: a stream of bytes from one process to another, in memory that both
// map.
//
// One writer, one reader. Positions count all bytes since the start, so the
// difference of the two is what lies in between. Neither process reads its own
// position back, and what the other one wrote is copied once and checked before
// it is used: a peer that writes nonsense gives [peer-lost], and never an
// access outside of the ring.
//
// Threads: one at a time on each side.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace torch_mesh {

// As it lies in shared memory, where all bytes begin with 0. A cache line, with
// the one that processors fetch beside it, for what each side writes.
struct RingPositions {
  alignas(128) uint64_t written;
  alignas(128) uint64_t read;
};
static_assert(sizeof(RingPositions) == 256);

// The part of a writer and of a reader that is the same. Both are views: who
// makes them keeps the memory.
class RingEnd {
 public:
  RingEnd() = default;
  // `bytes`: their number is a power of 2. `peer`: the process at the other
  // end, for errors.
  RingEnd(RingPositions& positions, std::span<std::byte> bytes, int peer)
      : positions_(&positions),
        bytes_(bytes.data()),
        capacity_(bytes.size()),
        peer_(peer) {}

 protected:
  // Position of the other end less `from`; throws beyond the capacity.
  uint64_t distance(uint64_t from, uint64_t to) const;
  // The runs of memory from a position on, of `size` bytes together.
  struct Runs {
    std::span<std::byte> first;
    std::span<std::byte> second;  // after the wrap; often empty
  };
  Runs runs_at(uint64_t position, size_t size) const;

  RingPositions* positions_ = nullptr;
  std::byte* bytes_ = nullptr;
  uint64_t capacity_ = 0;
  int peer_ = -1;
};

class RingWriter : public RingEnd {
 public:
  using RingEnd::RingEnd;
  // Copies as many of `bytes` as fit; returns their number.
  size_t write(std::span<const std::byte> bytes);
  // Shows the reader what is written. Returns whether it was anything new, for
  // which a reader may sleep.
  bool publish();

 private:
  uint64_t written_ = 0;
  uint64_t published_ = 0;
  uint64_t seen_read_ = 0;
};

class RingReader : public RingEnd {
 public:
  using RingEnd::RingEnd;
  // Copies as many bytes as there are and fit; returns their number.
  size_t read(std::span<std::byte> bytes);
  // Lets the writer have the place of what is read. Returns whether the ring
  // was full before, so that a writer may sleep for it.
  bool publish();

 private:
  uint64_t read_ = 0;
  uint64_t published_ = 0;
  uint64_t seen_written_ = 0;
};

}  // namespace torch_mesh

// ring.cpp: copies into a ring and out of it.

#include "job/ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <torch_mesh/error.h>

namespace torch_mesh {
namespace {

// Other processes map these words at other addresses.
using Position = std::atomic_ref<uint64_t>;
static_assert(Position::is_always_lock_free);

}  // namespace

// Loads and stores are sequentially consistent, the default. A side that goes
// to sleep says so and then looks at the other's position; the other side
// stores its position and then looks who sleeps: one of the two sees the other.

uint64_t RingEnd::distance(uint64_t from, uint64_t to) const {
  const uint64_t result = to - from;
  if (result > capacity_) [[unlikely]] {
    detail::raise(
        ErrorKind::kProcess,
        "peer-lost",
        "the memory shared with process ",
        peer_,
        " is damaged.\n  positions  ",
        from,
        " and ",
        to,
        " in a ring of ",
        capacity_,
        " bytes\nHint: look at the output of process ",
        peer_,
        " for what wrote there.");
  }
  return result;
}

RingEnd::Runs RingEnd::runs_at(uint64_t position, size_t size) const {
  const size_t start = position & (capacity_ - 1);
  const size_t first = std::min<size_t>(size, capacity_ - start);
  return {{bytes_ + start, first}, {bytes_, size - first}};
}

size_t RingWriter::write(std::span<const std::byte> bytes) {
  uint64_t free = capacity_ - (written_ - seen_read_);
  if (free < bytes.size()) {
    seen_read_ = Position(positions_->read).load();
    // A reader that has read what is not published yet is damaged, too.
    free = capacity_ - distance(seen_read_, written_);
  }
  const size_t size = std::min<size_t>(free, bytes.size());
  const Runs runs = runs_at(written_, size);
  std::memcpy(runs.first.data(), bytes.data(), runs.first.size());
  std::memcpy(
      runs.second.data(), bytes.data() + runs.first.size(), runs.second.size());
  written_ += size;
  return size;
}

bool RingWriter::publish() {
  if (written_ == published_) {
    return false;
  }
  published_ = written_;
  Position(positions_->written).store(written_);
  return true;
}

size_t RingReader::read(std::span<std::byte> bytes) {
  uint64_t available = seen_written_ - read_;
  if (available < bytes.size()) {
    seen_written_ = Position(positions_->written).load();
    available = distance(read_, seen_written_);
  }
  const size_t size = std::min<size_t>(available, bytes.size());
  const Runs runs = runs_at(read_, size);
  std::memcpy(bytes.data(), runs.first.data(), runs.first.size());
  std::memcpy(
      bytes.data() + runs.first.size(), runs.second.data(), runs.second.size());
  read_ += size;
  return size;
}

bool RingReader::publish() {
  if (read_ == published_) {
    return false;
  }
  const uint64_t before = published_;
  published_ = read_;
  Position(positions_->read).store(read_);
  // Not what was seen when reading: the writer may have gone on since.
  return Position(positions_->written).load() - before == capacity_;
}

}  // namespace torch_mesh

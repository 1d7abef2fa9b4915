// shared_memory_peer.cpp: messages, cut into what a ring has place for.

#include "job/shared_memory_peer.h"

#include <algorithm>
#include <type_traits>
#include <utility>

namespace torch_mesh {
namespace {

constexpr size_t kLeastAtOnce = size_t{16} << 10;

}  // namespace

template <typename Byte>
void MessageParts<Byte>::add(std::span<Byte> bytes) {
  if (!std::exchange(is_under_way, true)) {
    num_bytes = 0;
    next = 0;
    runs.clear();
    // The bytes of the head go the way of all others.
    if constexpr (std::is_const_v<Byte>) {
      runs.push_back(std::as_bytes(std::span(&head, 1)));
    } else {
      runs.push_back(std::as_writable_bytes(std::span(&head, 1)));
    }
  }
  num_bytes += bytes.size();
  runs.push_back(bytes);
}

SharedMemoryPeer::SharedMemoryPeer(
    int process,
    std::unique_ptr<Segment> theirs,
    size_t ring,
    const Segment& mine,
    size_t ring_of_mine)
    : process_(process),
      theirs_(std::move(theirs)),
      writer_(theirs_->positions(ring), theirs_->bytes(ring), process),
      reader_(mine.positions(ring_of_mine), mine.bytes(ring_of_mine), process),
      num_at_once_(std::max(kLeastAtOnce, theirs_->bytes(ring).size() / 16)) {}

void SharedMemoryPeer::add_send(std::span<const std::byte> bytes) {
  outgoing_.add(bytes);
}

void SharedMemoryPeer::add_receive(std::span<std::byte> bytes) {
  incoming_.add(bytes);
}

bool SharedMemoryPeer::start(uint64_t job, const Stamp& stamp) {
  const bool sends = std::exchange(outgoing_.is_under_way, false);
  const bool receives = std::exchange(incoming_.is_under_way, false);
  if (sends) {
    outgoing_.head = {job, outgoing_.num_before++, outgoing_.num_bytes, stamp};
  }
  if (receives) {
    expected_ = {job, incoming_.num_before++, incoming_.num_bytes, stamp};
  }
  return sends || receives;
}

// Moves runs until `transfer` gives less than it was asked for. The other side
// is told of what has moved by `publish`, each `num_at_once_` bytes; `ended` is
// told which run has moved whole.
template <typename Byte, typename Transfer, typename Publish, typename Ended>
bool SharedMemoryPeer::move(
    MessageParts<Byte>& message,
    const Transfer& transfer,
    const Publish& publish,
    const Ended& ended) {
  bool has_moved = false;
  size_t num_unpublished = 0;
  auto tell = [&] {
    num_unpublished = 0;
    if (publish()) {
      theirs_->ring_doorbell();
    }
  };
  while (!message.is_done()) {
    std::span<Byte>& run = message.runs[message.next];
    const size_t most = std::min(run.size(), num_at_once_ - num_unpublished);
    const size_t size = transfer(run.first(most));
    run = run.subspan(size);
    num_unpublished += size;
    has_moved |= size > 0;
    if (run.empty()) {
      ended(message.next++);
    }
    if (size < most) {
      break;
    }
    if (num_unpublished == num_at_once_) {
      tell();
    }
  }
  tell();
  if (has_moved) {
    wait_.reset();
  }
  return has_moved;
}

bool SharedMemoryPeer::send() {
  return move(
      outgoing_,
      [&](std::span<const std::byte> bytes) { return writer_.write(bytes); },
      [&] { return writer_.publish(); },
      [](size_t) {});
}

bool SharedMemoryPeer::receive() {
  return move(
      incoming_,
      [&](std::span<std::byte> bytes) { return reader_.read(bytes); },
      [&] { return reader_.publish(); },
      [&](size_t run) {
        if (run == 0) {
          check_head(expected_, incoming_.head, process_);
        }
      });
}

void SharedMemoryPeer::begin_wait() {
  if (!wait_) {
    wait_.emplace(process_);
  }
}

void SharedMemoryPeer::check_wait(const char* doing) {
  begin_wait();
  wait_->check(doing);
}

}  // namespace torch_mesh

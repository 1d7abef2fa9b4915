// block.h: a message as one block of a fixed size, and what does not fit in it.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "job/message.h"

namespace torch_mesh {

// How each message begins. It always has this size: there are carriers that end
// the process where another number of bytes comes than they wait for.
struct Block {
  static constexpr size_t kSize = 512;
  static constexpr size_t kPayload = kSize - sizeof(MessageHead);
  MessageHead head;
  std::byte payload[kPayload] = {};
};
static_assert(sizeof(Block) == Block::kSize);

// Bytes that are cut in runs.
template <typename Byte>
struct ByteRuns {
  std::vector<std::span<Byte>> runs;
  size_t num_bytes = 0;

  void add(std::span<Byte> run) {
    runs.push_back(run);
    num_bytes += run.size();
  }
  // Takes `num` bytes off the front, in pieces.
  template <typename Use>
  void take(size_t num, Use use) {
    num_bytes -= num;
    size_t done = 0;
    for (std::span<Byte>& run : runs) {
      const size_t now = std::min(num, run.size());
      if (now > 0) {
        use(run.first(now));
      }
      run = run.subspan(now);
      num -= now;
      if (!run.empty()) {
        break;
      }
      ++done;
    }
    runs.erase(runs.begin(), runs.begin() + done);
  }
};

inline void copy_out(
    ByteRuns<const std::byte>& from,
    std::byte* to,
    size_t num) {
  from.take(num, [&](std::span<const std::byte> piece) {
    std::memcpy(to, piece.data(), piece.size());
    to += piece.size();
  });
}

inline void copy_in(
    ByteRuns<std::byte>& to,
    const std::byte* from,
    size_t num) {
  to.take(num, [&](std::span<std::byte> piece) {
    std::memcpy(piece.data(), from, piece.size());
    from += piece.size();
  });
}

// Memory that is used again, and not written to before its use.
struct Scratch {
  std::unique_ptr<std::byte[]> bytes;
  size_t size = 0;

  std::byte* of_size(size_t num) {
    if (num > size) {
      bytes = std::make_unique_for_overwrite<std::byte[]>(num);
      size = num;
    }
    return bytes.get();
  }
};

}  // namespace torch_mesh

// exchanges.h: messages whose bytes follow from who sends them to whom, and
// when.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "job/transport.h"

namespace torch_mesh {

inline Stamp stamp_of(uint64_t hash, const std::string& text = "a test") {
  Stamp result;
  result.hash = hash;
  result.set_text(text);
  return result;
}

inline std::vector<std::byte> message_of(
    int from,
    int to,
    uint64_t step,
    size_t size) {
  std::vector<std::byte> result(size);
  uint64_t state = step * 1000003 + from * 1009 + to + 1;
  for (std::byte& byte : result) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<std::byte>(state >> 56);
  }
  return result;
}

// Pieces of 1 byte or more, in order, `num` at most.
template <typename Byte>
std::vector<std::span<Byte>> cut(
    std::span<Byte> bytes,
    int num,
    std::mt19937& random) {
  std::vector<std::span<Byte>> result;
  while (!bytes.empty()) {
    const size_t size =
        --num > 0 ? 1 + random() % std::min<size_t>(bytes.size(), 1000)
                  : bytes.size();
    result.push_back(bytes.first(size));
    bytes = bytes.subspan(size);
  }
  return result;
}

// What one process does in a job where all know who sends how much to whom.
class Exchanges {
 public:
  Exchanges(Transport& transport, int process, int num_processes)
      : transport_(transport),
        process_(process),
        num_processes_(num_processes),
        random_(process) {}

  using Size = std::function<size_t(int from, int to)>;
  // Returns whether all came as it was sent. Runs are cut otherwise in each
  // process, and messages have `max_runs` at most.
  bool exchange(const Size& size, int max_runs = 1) {
    ++step_;
    std::vector<std::vector<std::byte>> sent(num_processes_);
    std::vector<std::vector<std::byte>> received(num_processes_);
    std::vector<Outgoing> sends;
    std::vector<Incoming> receives;
    for (int other = 0; other < num_processes_; ++other) {
      if (other == process_) {
        continue;
      }
      sent[other] = message_of(process_, other, step_, size(process_, other));
      received[other].resize(size(other, process_));
      for (const auto run :
           cut<const std::byte>(sent[other], max_runs, random_)) {
        sends.push_back({other, run});
      }
      for (const auto run :
           cut<std::byte>(received[other], max_runs, random_)) {
        receives.push_back({other, run});
      }
    }
    transport_.begin(stamp_of(step_), sends, receives);
    transport_.finish();
    for (int other = 0; other < num_processes_; ++other) {
      if (received[other] !=
          message_of(other, process_, step_, received[other].size())) {
        return false;
      }
    }
    return true;
  }

 private:
  Transport& transport_;
  const int process_;
  const int num_processes_;
  std::mt19937 random_;
  uint64_t step_ = 0;
};

}  // namespace torch_mesh

// two_processes.h: a transport between two processes over a socket.

#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <exception>
#include <memory>
#include <vector>

#include <torch_mesh/error.h>

#include "job/job.h"

namespace torch_mesh {

// Sends and receives in turn: what the other one has no room for waits until it
// has read.
class SocketTransport final : public Transport {
 public:
  SocketTransport(int socket, int other) : socket_(socket), other_(other) {}

  int place() const override { return 0; }
  void begin(
      const Stamp& stamp,
      std::span<const Outgoing> sends,
      std::span<const Incoming> receives) override {
    out_.clear();
    in_.clear();
    const auto head_of = [&](size_t num_bytes, uint64_t& number) {
      return MessageHead{1, ++number, num_bytes, stamp};
    };
    if (!sends.empty()) {
      head_out_ = head_of(total(sends), num_sent_);
      out_.push_back(std::as_bytes(std::span(&head_out_, 1)));
      for (const Outgoing& run : sends) {
        out_.push_back(run.bytes);
      }
    }
    if (!receives.empty()) {
      expected_ = head_of(total(receives), num_received_);
      in_.push_back(std::as_writable_bytes(std::span(&head_in_, 1)));
      for (const Incoming& run : receives) {
        in_.push_back(run.bytes);
      }
    }
    is_checked_ = receives.empty();
  }

  void finish() override {
    while (!out_.empty() || !in_.empty()) {
      const int events =
          (out_.empty() ? 0 : POLLOUT) | (in_.empty() ? 0 : POLLIN);
      pollfd ready{socket_, static_cast<short>(events), 0};
      poll(&ready, 1, -1);
      if (ready.revents & POLLIN) {
        move_on(in_, [&](std::span<std::byte> bytes) {
          return read(socket_, bytes.data(), bytes.size());
        });
      }
      if (ready.revents & POLLOUT) {
        move_on(out_, [&](std::span<const std::byte> bytes) {
          return send(socket_, bytes.data(), bytes.size(), MSG_DONTWAIT);
        });
      }
    }
    if (!is_checked_) {
      check_head(expected_, head_in_, other_);
    }
  }

  void abandon(std::exception_ptr) noexcept override {}

 private:
  template <typename Runs>
  static size_t total(const Runs& runs) {
    size_t num_bytes = 0;
    for (const auto& run : runs) {
      num_bytes += run.bytes.size();
    }
    return num_bytes;
  }

  template <typename Byte, typename Move>
  static void move_on(std::vector<std::span<Byte>>& runs, const Move& move) {
    const ssize_t done = move(runs.front());
    TORCH_MESH_ASSERT(done > 0, "the other process is gone");
    runs.front() = runs.front().subspan(done);
    if (runs.front().empty()) {
      runs.erase(runs.begin());
    }
  }

  const int socket_;
  const int other_;
  uint64_t num_sent_ = 0;
  uint64_t num_received_ = 0;
  MessageHead head_out_;
  MessageHead head_in_;
  MessageHead expected_;
  bool is_checked_ = true;
  std::vector<std::span<const std::byte>> out_;
  std::vector<std::span<std::byte>> in_;
};

// This process as one of two.
inline void start_job_of_two(int process, int socket) {
  Job job;
  job.process = process;
  job.num_processes = 2;
  job.transports.resize(2);
  job.transports[1 - process] =
      std::make_shared<SocketTransport>(socket, 1 - process);
  start_job(std::move(job));
}

}  // namespace torch_mesh

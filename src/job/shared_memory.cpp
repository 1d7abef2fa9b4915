// shared_memory.cpp: exchanges with all peers at once.

#include "job/shared_memory.h"

#include <unistd.h>

#include <iterator>
#include <utility>

#include <torch_mesh/error.h>

#include "job/shared_memory_peer.h"
#include "job/waiting.h"

namespace torch_mesh {
namespace {

// How often a thread looks before it sleeps: some microseconds in all. On full
// cores the other process may run only once this one sleeps.
constexpr int kSpins = 200;

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

SharedMemory::SharedMemory(int process, int num_processes, uint64_t job)
    : process_(process), job_(job), pid_(getpid()), peers_(num_processes) {}

SharedMemory::~SharedMemory() = default;

bool SharedMemory::serves(int process) const {
  return process >= 0 && static_cast<size_t>(process) < peers_.size() &&
         peers_[process];
}

void SharedMemory::begin(
    const Stamp& stamp,
    std::span<const Outgoing> sends,
    std::span<const Incoming> receives) {
  check_usable();
  TORCH_MESH_ASSERT(!is_begun_, "an exchange begins inside of another");
  is_begun_ = true;
  stamp_ = stamp;
  std::end(stamp_.text)[-1] = 0;
  or_broken([&] {
    for (const Outgoing& send : sends) {
      TORCH_MESH_ASSERT(serves(send.process), "no peer ", send.process);
      peers_[send.process]->add_send(send.bytes);
    }
    for (const Incoming& receive : receives) {
      TORCH_MESH_ASSERT(serves(receive.process), "no peer ", receive.process);
      peers_[receive.process]->add_receive(receive.bytes);
    }
    for (const auto& peer : peers_) {
      if (peer && peer->start(job_, stamp_)) {
        peer->send();
        if (!peer->is_done()) {
          active_.push_back(peer.get());
        }
      }
    }
  });
}

void SharedMemory::finish() {
  check_usable();
  TORCH_MESH_ASSERT(is_begun_, "an exchange ends that has not begun");
  or_broken([&] {
    int num_spins = 0;
    checked_ = {};
    while (!active_.empty()) {
      if (progress()) {
        num_spins = 0;
      } else if (++num_spins < kSpins) {
        pause_briefly();
      } else {
        sleep();
        num_spins = 0;
      }
    }
  });
  is_begun_ = false;
}

void SharedMemory::abandon(std::exception_ptr error) noexcept {
  broken_ = std::move(error);
}

void SharedMemory::check_usable() const {
  if (getpid() != pid_) {
    detail::raise(
        ErrorKind::kProcess,
        "forked-process",
        "a forked child of process ",
        process_,
        " communicates on a mesh over several processes.\n  the job knows  ",
        pid_,
        "\n  this is        ",
        getpid(),
        "\nHint: use such a mesh in the process that joined the job alone.");
  }
  if (broken_) {
    std::rethrow_exception(broken_);
  }
}

// Half a message may have moved: nothing that comes later can be understood.
template <typename Work>
void SharedMemory::or_broken(const Work& work) {
  try {
    work();
  } catch (...) {
    broken_ = std::current_exception();
    throw;
  }
}

bool SharedMemory::progress() {
  bool has_moved = false;
  for (SharedMemoryPeer* peer : active_) {
    has_moved |= peer->send();
    has_moved |= peer->receive();
  }
  if (has_moved) {
    std::erase_if(
        active_, [](SharedMemoryPeer* peer) { return peer->is_done(); });
  }
  return has_moved;
}

void SharedMemory::sleep() {
  using Clock = std::chrono::steady_clock;
  if (checked_ == Clock::time_point()) {
    checked_ = Clock::now();
  }
  for (SharedMemoryPeer* peer : active_) {
    peer->begin_wait();
  }
  mine_->announce_sleep();
  const bool is_awake = progress() || mine_->sleep(Wait::kSlice);
  mine_->end_sleep();
  // Peers that come one after the other do not put it off.
  const Clock::time_point now = Clock::now();
  if (is_awake && now - checked_ < Wait::kSlice) {
    return;
  }
  checked_ = now;
  for (SharedMemoryPeer* peer : active_) {
    peer->check_wait(stamp_.text);
  }
}

}  // namespace torch_mesh

// c10d.cpp: the one file, with sliced_wait.h, that includes headers of
// torch.distributed, of which it takes the abstract classes only: groups by
// name, their backend and store.

#include "comm/c10d.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include <ATen/ops/from_blob.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <torch_mesh/error.h>

#include "comm/sliced_wait.h"
#include "job/block.h"
#include "job/hash.h"
#include "job/monitor.h"
#include "job/waiting.h"

namespace torch_mesh {
namespace {

using GroupPtr = c10::intrusive_ptr<c10d::ProcessGroup>;

std::string text_of(const std::exception& error) {
  const auto* torchs = dynamic_cast<const c10::Error*>(&error);
  return torchs ? torchs->what_without_backtrace() : error.what();
}

[[noreturn]] void raise_no_group(
    const std::string& group_name,
    const std::string& why) {
  detail::raise(
      ErrorKind::kProcess,
      "no-process-group",
      "the process group \"",
      shown(group_name),
      "\" cannot carry a mesh: ",
      why,
      "\nHint: torch.distributed.init_process_group(\"gloo\") makes one that "
      "can; for GPUs \"cpu:gloo,cuda:nccl\".");
}

GroupPtr group_of(const std::string& name) {
  try {
    return c10d::resolve_process_group(name);
  } catch (const c10::Error& error) {
    raise_no_group(name, text_of(error));
  }
}

// --- store -------------------------------------------------------------------

class GroupStore final : public Store {
 public:
  explicit GroupStore(c10::intrusive_ptr<c10d::Store> store)
      : store_(std::move(store)) {}

  void set(const std::string& key, const std::string& value) override {
    answered([&] {
      store_->set(key, std::vector<uint8_t>(value.begin(), value.end()));
    });
  }
  std::string get(const std::string& key, int process) override;
  std::vector<std::optional<std::string>> try_get(
      const std::vector<std::string>& keys) override;
  int64_t add(const std::string& key, int64_t amount) override {
    return answered([&] { return store_->add(key, amount); });
  }
  std::unique_ptr<Store> clone() override {
    return answered(
        [&] { return std::make_unique<GroupStore>(store_->clone()); });
  }

 private:
  // What `ask` returns; its error is that of a store which is gone.
  template <typename Ask>
  static auto answered(Ask ask) -> decltype(ask()) {
    try {
      return ask();
    } catch (const std::exception& error) {
      detail::raise(
          ErrorKind::kProcess,
          "peer-lost",
          "the job's store is gone.\n  the store says  ",
          shown(text_of(error)),
          "\nHint: look at the output of the process that keeps it, process 0 "
          "or the launcher.");
    }
  }

  c10::intrusive_ptr<c10d::Store> store_;
  std::unordered_set<std::string> known_;  // keys that are set: they stay so
};

// A thread asks, which stays behind where the answer never comes: the call into
// a store whose process is stopped does not end, and has no time limit. It asks
// again and again, since c10d's own waits write to stderr when their time is
// over.
std::string GroupStore::get(const std::string& key, int process) {
  struct Answer {
    std::mutex mutex;
    std::condition_variable changed;
    bool is_abandoned = false;
    std::optional<std::string> value;
    std::exception_ptr error;
  };
  const auto answer = std::make_shared<Answer>();
  std::thread([answer, key, store = store_] {
    std::unique_lock lock(answer->mutex);
    std::chrono::milliseconds pause{1};
    while (!answer->is_abandoned && !answer->value && !answer->error) {
      lock.unlock();
      std::optional<std::string> value;
      std::exception_ptr error;
      try {
        if (store->check({key})) {
          const std::vector<uint8_t> bytes = store->get(key);
          value.emplace(bytes.begin(), bytes.end());
        }
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      answer->value = std::move(value);
      answer->error = error;
      answer->changed.notify_all();
      if (!answer->value && !answer->error) {
        answer->changed.wait_for(lock, pause);
        pause = std::min(2 * pause, Wait::kSlice);
      }
    }
  }).detach();

  const Wait wait(process);
  const std::string doing = "the store, for " + key;
  std::unique_lock lock(answer->mutex);
  auto has_come = [&] { return answer->value || answer->error; };
  while (!answer->changed.wait_for(lock, Wait::kSlice, has_come)) {
    lock.unlock();
    try {
      wait.check(doing.c_str());
    } catch (...) {
      lock.lock();
      answer->is_abandoned = true;
      answer->changed.notify_all();
      throw;
    }
    lock.lock();
  }
  return answered([&] {
    if (answer->error) {
      std::rethrow_exception(answer->error);
    }
    return *answer->value;
  });
}

std::vector<std::optional<std::string>> GroupStore::try_get(
    const std::vector<std::string>& keys) {
  return answered([&] {
    std::vector<std::string> asked;
    for (const std::string& key : keys) {
      if (known_.contains(key) || store_->check({key})) {
        known_.insert(key);
        asked.push_back(key);
      }
    }
    std::vector<std::optional<std::string>> values(keys.size());
    if (asked.empty()) {
      return values;
    }
    const std::vector<std::vector<uint8_t>> found = store_->multiGet(asked);
    size_t at = 0;
    for (size_t i = 0; i < keys.size() && at < found.size(); ++i) {
      if (keys[i] == asked[at]) {
        values[i].emplace(found[at].begin(), found[at].end());
        ++at;
      }
    }
    return values;
  });
}

// --- transport ---------------------------------------------------------------

// What gloo sends is not written to.
at::Tensor as_tensor(const std::byte* data, size_t num_bytes) {
  return at::from_blob(
      const_cast<std::byte*>(data),
      {static_cast<int64_t>(num_bytes)},
      at::TensorOptions(at::kByte));
}

// One process, its counts of messages, and those of the exchange in progress.
struct Peer {
  uint64_t num_sent = 0;
  uint64_t num_received = 0;

  ByteRuns<const std::byte> sends;
  ByteRuns<std::byte> receives;
  MessageHead expected;
  Block sent;
  Block received;
  Scratch packed_sends;
  Scratch packed_receives;
  bool is_packed = false;  // whether the rest comes into packed_receives
  WorkPtr sent_block;
  WorkPtr sent_rest;
  WorkPtr received_block;
  WorkPtr received_rest;
};

// A message is a block, and what does not fit into it. Both ends name the rest
// by all that the head says, its size too: what they do not agree on never
// meets, and gloo sends nothing that nobody asked for. The head says why. So
// the receiver asks for the rest at once, and no more time passes than for a
// block.
//
// For shards on GPUs: the block goes over the CPU's backend as here, the rest
// over that of the device (`getBackend(at::kCUDA)`), as byte tensors of that
// device on its current stream, packed by copies there; SlicedWait says how
// such works are waited for.
class GroupTransport final : public Transport {
 public:
  GroupTransport(
      c10::intrusive_ptr<c10d::Backend> backend,
      int num_processes,
      uint64_t job)
      : backend_(std::move(backend)),
        job_(job),
        // Two messages that meet have one tag: so those of two jobs never do.
        block_tag_(tag_of(job)),
        peers_(num_processes) {}

  int place() const override { return 1; }
  void begin(
      const Stamp& stamp,
      std::span<const Outgoing> sends,
      std::span<const Incoming> receives) override {
    breaking([&] { begin_unbroken(stamp, sends, receives); });
  }
  void finish() override {
    breaking([&] { finish_unbroken(); });
  }
  bool adds_up() const override { return true; }
  void add_up(const Addend& addend) override {
    breaking([&] { add_up_unbroken(addend); });
  }
  // No work of this transport is left then: gloo no longer touches its memory.
  void abandon(std::exception_ptr error) noexcept override {
    broken_ = std::move(error);
    peers_.clear();
  }

 private:
  // Runs one of the above; an error is the end of the transport.
  template <typename Step>
  void breaking(Step step) {
    if (broken_) {
      std::rethrow_exception(broken_);
    }
    try {
      step();
    } catch (...) {
      abandon(std::current_exception());
      throw;
    }
  }

  void begin_unbroken(
      const Stamp& stamp,
      std::span<const Outgoing> sends,
      std::span<const Incoming> receives);
  void finish_unbroken();
  void add_up_unbroken(const Addend& addend);
  void close_connections(int process) noexcept;
  void receive_from(int process, Peer& peer);
  void send_to(int process, Peer& peer);
  void read_block(int process, Peer& peer);
  void read_rest(int process, Peer& peer);
  Peer& peer_of(int process);

  // Even; an odd one is that of a rest.
  static int tag_of(uint64_t number) {
    return static_cast<int>((number ^ number >> 32) & 0x3fffffff) << 1;
  }
  static int tag_of_rest(const MessageHead& head) {
    uint64_t hash = mixed(kEmptyHash, head.job);
    hash = mixed(hash, head.number);
    hash = mixed(hash, head.num_bytes);
    return tag_of(mixed(hash, head.stamp.hash)) + 1;
  }

  WorkPtr send(int process, const std::byte* data, size_t num, int tag) {
    std::vector<at::Tensor> tensors = {as_tensor(data, num)};
    return connected(
        process, [&] { return backend_->send(tensors, process, tag); });
  }
  WorkPtr receive(int process, std::byte* data, size_t num, int tag) {
    std::vector<at::Tensor> tensors = {as_tensor(data, num)};
    return connected(
        process, [&] { return backend_->recv(tensors, process, tag); });
  }
  // Waits for a work and drops it; nothing if there is none.
  void finish_work(int process, WorkPtr& work);

  // What `talk` returns; its error is that of a broken connection.
  template <typename Talk>
  auto connected(int process, Talk talk) -> decltype(talk()) {
    std::string error;
    try {
      return talk();
    } catch (const std::exception& e) {
      error = text_of(e);
    }
    raise_lost(process, error);
  }
  [[noreturn]] void raise_lost(int process, const std::string& error) const;

  const c10::intrusive_ptr<c10d::Backend> backend_;
  const uint64_t job_;
  const int block_tag_;
  SlicedWait sliced_wait_;
  std::vector<std::unique_ptr<Peer>> peers_;  // by process
  std::string doing_;
  std::exception_ptr broken_;
};

Peer& GroupTransport::peer_of(int process) {
  TORCH_MESH_ASSERT(
      process >= 0 && process < static_cast<int>(peers_.size()) &&
          process != backend_->getRank(),
      "a message for process ",
      process);
  std::unique_ptr<Peer>& peer = peers_[process];
  if (!peer) {
    peer = std::make_unique<Peer>();
  }
  return *peer;
}

void GroupTransport::begin_unbroken(
    const Stamp& stamp,
    std::span<const Outgoing> sends,
    std::span<const Incoming> receives) {
  for (const Outgoing& run : sends) {
    peer_of(run.process).sends.add(run.bytes);
  }
  for (const Incoming& run : receives) {
    peer_of(run.process).receives.add(run.bytes);
  }
  doing_ = shown(
      std::string_view(stamp.text, strnlen(stamp.text, Stamp::kTextSize)));
  // First what is to come: gloo can then write it where it belongs.
  for (size_t i = 0; i < peers_.size(); ++i) {
    Peer* peer = peers_[i].get();
    if (peer && peer->receives.num_bytes > 0) {
      peer->expected = {
          job_, peer->num_received++, peer->receives.num_bytes, stamp};
      receive_from(static_cast<int>(i), *peer);
    }
  }
  for (size_t i = 0; i < peers_.size(); ++i) {
    Peer* peer = peers_[i].get();
    if (peer && peer->sends.num_bytes > 0) {
      peer->sent.head = {job_, peer->num_sent++, peer->sends.num_bytes, stamp};
      send_to(static_cast<int>(i), *peer);
    }
  }
}

void GroupTransport::receive_from(int process, Peer& peer) {
  peer.received_block = receive(
      process,
      reinterpret_cast<std::byte*>(&peer.received),
      Block::kSize,
      block_tag_);
  if (peer.receives.num_bytes <= Block::kPayload) {
    return;
  }
  const size_t rest = peer.receives.num_bytes - Block::kPayload;
  peer.is_packed = peer.receives.runs.size() > 1;
  std::byte* data = peer.is_packed
                        ? peer.packed_receives.of_size(rest)
                        : peer.receives.runs[0].data() + Block::kPayload;
  peer.received_rest = receive(process, data, rest, tag_of_rest(peer.expected));
}

void GroupTransport::send_to(int process, Peer& peer) {
  const int rest_tag = tag_of_rest(peer.sent.head);
  copy_out(
      peer.sends,
      peer.sent.payload,
      std::min(peer.sends.num_bytes, Block::kPayload));
  peer.sent_block = send(
      process,
      reinterpret_cast<const std::byte*>(&peer.sent),
      Block::kSize,
      block_tag_);
  const size_t rest = peer.sends.num_bytes;
  if (rest == 0) {
    return;
  }
  const std::byte* data = peer.sends.runs[0].data();
  if (peer.sends.runs.size() > 1) {
    std::byte* packed = peer.packed_sends.of_size(rest);
    copy_out(peer.sends, packed, rest);
    data = packed;
  }
  peer.sent_rest = send(process, data, rest, rest_tag);
}

void GroupTransport::read_block(int process, Peer& peer) {
  finish_work(process, peer.received_block);
  check_head(peer.expected, peer.received.head, process);
  copy_in(
      peer.receives,
      peer.received.payload,
      std::min(peer.receives.num_bytes, Block::kPayload));
}

void GroupTransport::read_rest(int process, Peer& peer) {
  finish_work(process, peer.received_rest);
  if (peer.is_packed) {
    copy_in(
        peer.receives,
        peer.packed_receives.bytes.get(),
        peer.receives.num_bytes);
  }
}

void GroupTransport::finish_unbroken() {
  auto for_each = [&](auto step) {
    for (size_t i = 0; i < peers_.size(); ++i) {
      if (peers_[i]) {
        step(static_cast<int>(i), *peers_[i]);
      }
    }
  };
  for_each([&](int process, Peer& peer) {
    if (peer.received_block) {
      read_block(process, peer);
    }
  });
  for_each([&](int process, Peer& peer) {
    if (peer.received_rest) {
      read_rest(process, peer);
    }
  });
  for_each([&](int process, Peer& peer) {
    finish_work(process, peer.sent_block);
    finish_work(process, peer.sent_rest);
    peer.sends = {};
    peer.receives = {};
  });
}

// gloo's own, which no other thread can end: a wait for it is one until it is
// done or a slice of time is over.
void GroupTransport::add_up_unbroken(const Addend& addend) {
  constexpr std::array kTypes{at::kFloat, at::kDouble, at::kInt, at::kLong};
  const auto dtype = kTypes[static_cast<size_t>(addend.kind)];
  std::vector<at::Tensor> tensors = {at::from_blob(
      addend.bytes.data(),
      {static_cast<int64_t>(addend.bytes.size() / c10::elementSize(dtype))},
      [memory = addend.memory](void*) {},
      at::TensorOptions(dtype))};
  // Of many, nobody says who is waited for.
  const int peer = peers_.size() == 2 ? 1 - backend_->getRank() : -1;
  const WorkPtr work =
      connected(peer, [&] { return backend_->allreduce(tensors); });
  const Wait wait(peer);
  auto is_done = [&] {
    try {
      return work->wait(Wait::kSlice);
    } catch (const std::exception&) {
      if (work->isCompleted()) {
        throw;
      }
      return false;
    }
  };
  try {
    while (!connected(peer, is_done)) {
      wait.check(doing_.c_str());
    }
  } catch (...) {
    close_connections((backend_->getRank() + 1) % backend_->getSize());
    throw;
  }
}

// Ends what gloo does for this group: so does a wait of which the time is over.
void GroupTransport::close_connections(int process) noexcept {
  std::byte unused{};
  std::vector<at::Tensor> tensors = {as_tensor(&unused, 1)};
  try {
    backend_->recv(tensors, process, block_tag_ ^ 2)
        ->wait(std::chrono::milliseconds(1));
  } catch (...) {
  }
}

void GroupTransport::finish_work(int process, WorkPtr& work) {
  if (!work) {
    return;
  }
  const Wait wait(process);
  while (!connected(process, [&] { return sliced_wait_.wait(work); })) {
    wait.check(doing_.c_str());
  }
  work.reset();
}

void GroupTransport::raise_lost(int process, const std::string& error) const {
  // The end of a connection names one that went, not the one that went first.
  if (process >= 0) {
    note_closed(process);
  }
  wait_for_verdict(process, doing_.c_str());
  detail::raise(
      ErrorKind::kProcess,
      "peer-lost",
      process < 0 ? std::string("a process") : process_name(process),
      " closed its connection.\n  waited for in  ",
      doing_,
      process < 0 ? std::string() : last_said(process),
      "\n  the connection says  ",
      shown(error),
      "\nHint: look at the output of ",
      process < 0 ? std::string("the others")
                  : "process " + std::to_string(process),
      ": it ended, or was killed.");
}

}  // namespace

std::unique_ptr<Store> store_of_group(
    const std::string& group_name,
    const std::string& prefix) {
  const c10::intrusive_ptr<c10d::Store> store =
      group_of(group_name)->getStore();
  if (!store) {
    raise_no_group(group_name, "it has no store.");
  }
  // A client of its own: a call that waits holds the lock of its client.
  return GroupStore(c10::make_intrusive<c10d::PrefixStore>(prefix, store))
      .clone();
}

std::unique_ptr<Transport> c10d_transport(
    const std::string& group_name,
    int process,
    int num_processes,
    uint64_t job) {
  const GroupPtr group = group_of(group_name);
  TORCH_MESH_ASSERT(
      group->getRank() == process && group->getSize() == num_processes,
      "process ",
      process,
      " of ",
      num_processes,
      " is ",
      group->getRank(),
      " of ",
      group->getSize(),
      " in its group");
  c10::intrusive_ptr<c10d::Backend> backend;
  try {
    backend = group->getBackend(at::kCPU);
  } catch (const c10::Error&) {
    raise_no_group(group_name, "it has no backend for the CPU.");
  }
  if (backend->getBackendName() != "gloo") {
    raise_no_group(
        group_name,
        "its backend for the CPU is " + backend->getBackendName() +
            ", not gloo.");
  }
  return std::make_unique<GroupTransport>(
      std::move(backend), num_processes, job);
}

}  // namespace torch_mesh

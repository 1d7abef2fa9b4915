// runs.h: the runs of bytes of one exchange, by the transports that take them.

#pragma once

#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "job/job.h"

namespace torch_mesh {

class Runs {
 public:
  // To, and from, a process. Throw [no-job] if it cannot be reached.
  void send(int process, std::span<const std::byte> bytes);
  void receive(int process, std::span<std::byte> bytes);
  bool empty() const { return runs_.empty(); }
  // The sum of all processes, once all has come. Requires: runs to and from
  // each of them, by one transport, which adds up.
  void add_up(Addend addend) { addend_ = std::move(addend); }

  // Returns when all has come, and may be written again. Throws what the
  // transports throw (transport.h), of which none touches the memory any more,
  // and [collective-thread] where another thread is in here: which of them
  // comes first may differ between processes.
  void run(const Stamp& stamp);

 private:
  struct OfTransport {
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
  };
  struct InOrder {
    bool operator()(const Transport* a, const Transport* b) const {
      return std::pair(a->place(), a) < std::pair(b->place(), b);
    }
  };
  std::map<Transport*, OfTransport, InOrder> runs_;
  std::optional<Addend> addend_;
};

}  // namespace torch_mesh

// transport.h: what carries bytes between the processes of a job.
//
// All processes of a mesh run one program, so both ends of a message know its
// length before it comes. That is checked: a message begins with a head that
// says what its sender does (message.h), and no byte behind it is read where
// the receiver does something else.

#pragma once

#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <stdexcept>

#include "job/message.h"

namespace torch_mesh {

// A run of bytes for another process, and one of another process. Neither is
// empty.
struct Outgoing {
  int process;
  std::span<const std::byte> bytes;
};
struct Incoming {
  int process;
  std::span<std::byte> bytes;
};

// What this process adds to a sum of all processes of its job, and where it
// gets the sum. All hand in as many numbers of one kind.
struct Addend {
  enum class Kind { kFloat32, kFloat64, kInt32, kInt64 };
  Kind kind;
  std::span<std::byte> bytes;
  // Keeps them alive: an addition that an error ends may touch them once more.
  std::shared_ptr<void> memory;
};

// Between two processes there is one transport. What a process sends another in
// one exchange is one message: its runs one after the other, in their order;
// the receiver may cut them otherwise.
//
// Threads: one exchange of a job at a time; `finish` may come on another thread
// than `begin`.
class Transport {
 public:
  virtual ~Transport() = default;

  // Where an exchange goes by several, all processes finish them in this order,
  // and so never wait for each other in a ring.
  virtual int place() const = 0;

  // Sends and receives. The memory must live until `finish` returns, or throws.
  // Does not wait for other processes.
  virtual void begin(
      const Stamp& stamp,
      std::span<const Outgoing> sends,
      std::span<const Incoming> receives) = 0;

  // Returns when all has come, and what is sent may be written again. Throws
  // what Wait throws (waiting.h), and [processes-differ]; afterwards the
  // transport is broken, and each call says so with the same error.
  virtual void finish() = 0;

  // Whether it adds up numbers of all processes itself, for less than messages
  // cost. The same in all processes.
  virtual bool adds_up() const { return false; }
  // Does so, behind an exchange in which each process has heard of each other
  // one that it does the same. Throws what `finish` throws. The order in which
  // numbers are added is the same at each call and for each process; which it
  // is, is not said.
  virtual void add_up(const Addend&) {
    throw std::logic_error("transport: it does not add up");
  }

  // Where another transport's part of an exchange has failed: from now on this
  // one is broken too, by that error, and touches no memory that it was given.
  virtual void abandon(std::exception_ptr error) noexcept = 0;
};

}  // namespace torch_mesh

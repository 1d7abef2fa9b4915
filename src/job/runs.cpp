// runs.cpp: begins with all transports before it waits for one.

#include "job/runs.h"

#include <exception>
#include <mutex>
#include <string>
#include <string_view>

#include <torch_mesh/error.h>

#include "job/background.h"
#include "job/monitor.h"

namespace torch_mesh {
namespace {

// Who finds that processes differ may be the only one who sees it.
void report_difference(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const CoreError& core) {
    if (std::string_view(core.code) == "processes-differ") {
      note_difference();
      report_failure(core.what());
    }
  } catch (...) {
  }
}

[[noreturn]] void raise_not_alone(const Stamp& stamp) {
  detail::raise(
      ErrorKind::kProcess,
      "collective-thread",
      "two threads of this process communicate at once.\n  this one  ",
      stamp.text,
      "\nHint: all processes do the same on a mesh in one order, which threads "
      "have not: let one thread use tensors that several processes hold. "
      "local_value reads without the others.");
}

}  // namespace

void Runs::send(int process, std::span<const std::byte> bytes) {
  runs_[&transport_to(process)].out.push_back({process, bytes});
}

void Runs::receive(int process, std::span<std::byte> bytes) {
  runs_[&transport_to(process)].in.push_back({process, bytes});
}

void Runs::run(const Stamp& stamp) {
  finish_background();
  static auto& mutex = *new std::mutex;
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock) {
    raise_not_alone(stamp);
  }
  // The program is elsewhere while a task runs.
  note_op(stamp, is_in_background() ? std::string() : line_of_script());
  try {
    for (const auto& [transport, of_it] : runs_) {
      transport->begin(stamp, of_it.out, of_it.in);
    }
    for (const auto& [transport, of_it] : runs_) {
      transport->finish();
    }
    if (addend_) {
      runs_.begin()->first->add_up(*addend_);
    }
  } catch (...) {
    const std::exception_ptr error = std::current_exception();
    for (const auto& [transport, of_it] : runs_) {
      transport->abandon(error);
    }
    report_difference(error);
    throw;
  }
  note_op_ended();
}

}  // namespace torch_mesh

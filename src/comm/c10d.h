// c10d.h: torch.distributed behind the interfaces of a job: its store, and a
// transport over point-to-point messages of its process group.
//
// A build of torch without torch.distributed has neither: both functions throw
// [no-distributed] there. All errors are CoreErrors.

#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "job/store.h"
#include "job/transport.h"

namespace torch_mesh {

// The store of a process group, with `prefix` before each key. Where it is a
// TCPStore each clone has a connection of its own.
//
// `get` asks Wait::check while it waits, also where the store's process is
// stopped; the other functions then wait for as long as that lasts. Without an
// answer they throw [peer-lost].
//
//   group_name  as torch registers it: ProcessGroup.group_name. Throws
//               [no-process-group] if there is none, or it has no store
std::unique_ptr<Store> store_of_group(
    const std::string& group_name,
    const std::string& prefix);

// Messages over the gloo backend that the group has for the CPU; it makes no
// group of its own. Throws [no-process-group] if there is no such backend.
//
// A connection that breaks is [peer-lost], or the verdict of the monitor, which
// gets the time that it needs (monitor.h). A wait looks around each 50 to 100
// ms.
//
//   process, num_processes  as the group numbers them
//   job                     the random number of the job: transports of two
//   jobs
//                           over one group do not meet
std::unique_ptr<Transport> c10d_transport(
    const std::string& group_name,
    int process,
    int num_processes,
    uint64_t job);

}  // namespace torch_mesh

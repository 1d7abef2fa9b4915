// run_lanes.h: the lanes of one op, one after the other or as a team.

#pragma once

#include <cstdint>

#include <c10/util/FunctionRef.h>

namespace torch_mesh {

// Calls run(lane) for each lane in [0, num_lanes). Returns when all are done.
//
// in_parallel   Share the lanes out among the caller's intra-op threads
//               (at::parallel_for). Each then runs its local op on one thread,
//               so a team and OpenMP inside an op are never busy at once.
//
// The first error is thrown, when no lane runs any more. Requires: a LocalOps
// guard on the caller; the team's threads get guards of their own, and the
// caller's inference mode.
void run_lanes(
    int num_lanes,
    bool in_parallel,
    c10::function_ref<void(int lane)> run);

// Whether the caller has a team to share lanes out among.
bool may_use_team();

}  // namespace torch_mesh

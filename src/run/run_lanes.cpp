// run_lanes.cpp: teams are the caller's own intra-op threads.
//
// Workers of our own beside OpenMP would make two teams spin on the same cores
// (docs/design/0001-teams.md); each calling thread has its intra-op team, and
// uses it either across lanes or inside a local op.

#include "run/run_lanes.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#include <pthread.h>

#include <atomic>

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include "shard/local_ops.h"

namespace torch_mesh {
namespace {

// OpenMP's threads do not live on in a forked child (law 17).
std::atomic<bool> in_forked_child{false};

bool watch_forks() {
  pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
  return true;
}

// For the rest of this parallel region and on this thread alone: libraries that
// ask how many threads they have (oneDNN) would otherwise wait for a team that
// a nested region does not get.
void one_thread_inside() {
#ifdef _OPENMP
  omp_set_num_threads(1);
#endif
}

}  // namespace

bool may_use_team() {
  static const bool watching = watch_forks();
  return watching && !in_forked_child.load(std::memory_order_relaxed) &&
         !at::in_parallel_region() && at::get_num_threads() > 1;
}

void run_lanes(
    int num_lanes,
    bool in_parallel,
    c10::function_ref<void(int lane)> run) {
  // A region of one would be none, and one_thread_inside() would stay.
  if (!in_parallel || num_lanes < 2 || !may_use_team()) {
    for (int lane = 0; lane < num_lanes; ++lane) {
      run(lane);
    }
    return;
  }
  const bool inference = c10::InferenceMode::is_enabled();
  at::parallel_for(
      0, num_lanes, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
        one_thread_inside();
        const c10::InferenceMode mode(inference);
        const LocalOps local;
        for (int64_t lane = begin; lane < end; ++lane) {
          run(static_cast<int>(lane));
        }
      });
}

}  // namespace torch_mesh

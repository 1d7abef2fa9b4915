// Lanes: each runs once, alone or as a team, in a clean state.

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <vector>

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include "run/run_lanes.h"
#include "shard/local_ops.h"

namespace torch_mesh {
namespace {

// bool: whether the lanes run as a team.
class RunLanes : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override { at::set_num_threads(4); }
  void TearDown() override { at::set_num_threads(threads_); }

  void run(int num_lanes, c10::function_ref<void(int)> body) {
    const LocalOps local;
    run_lanes(num_lanes, /*in_parallel=*/GetParam(), body);
  }

 private:
  const int threads_ = at::get_num_threads();
};

TEST_P(RunLanes, runs_each_lane_once) {
  for (int num_lanes : {1, 2, 3, 7, 64}) {
    std::vector<std::atomic<int>> runs(num_lanes);
    run(num_lanes, [&](int lane) { ++runs[lane]; });
    for (const auto& count : runs) {
      EXPECT_EQ(count, 1);
    }
  }
}

TEST_P(RunLanes, leaves_the_caller_its_threads) {
  for (int num_lanes : {1, 2, 7}) {
    run(num_lanes, [](int) {});
    EXPECT_EQ(at::get_num_threads(), 4);
  }
}

TEST_P(RunLanes, throws_an_error_when_no_lane_runs_any_more) {
  std::atomic<int> running{0};
  const auto body = [&](int lane) {
    ++running;
    if (lane == 3) {
      --running;
      throw std::runtime_error("lane 3");
    }
    --running;
  };
  EXPECT_THROW(run(8, body), std::runtime_error);
  EXPECT_EQ(running, 0);
  // And the next op finds the team in order.
  std::atomic<int> runs{0};
  run(8, [&](int) { ++runs; });
  EXPECT_EQ(runs, 8);
}

TEST_P(RunLanes, run_below_autograd_and_autocast) {
  std::atomic<int> clean{0};
  run(4, [&](int) {
    const auto excluded = c10::impl::tls_local_dispatch_key_set().excluded_;
    clean += excluded.has(c10::DispatchKey::AutogradFunctionality) &&
             excluded.has(c10::DispatchKey::AutocastCPU) &&
             excluded.has(c10::DispatchKey::ADInplaceOrView);
  });
  EXPECT_EQ(clean, 4);
}

TEST_P(RunLanes, have_the_inference_mode_of_the_caller) {
  for (bool inference : {false, true}) {
    const c10::InferenceMode mode(inference);
    std::atomic<int> alike{0};
    run(4,
        [&](int) { alike += c10::InferenceMode::is_enabled() == inference; });
    EXPECT_EQ(alike, 4);
  }
}

TEST_P(RunLanes, leave_the_callers_state_as_it_was) {
  const auto before = c10::impl::tls_local_dispatch_key_set();
  run(4, [](int) {});
  const auto after = c10::impl::tls_local_dispatch_key_set();
  EXPECT_EQ(before.excluded_, after.excluded_);
  EXPECT_EQ(before.included_, after.included_);
}

INSTANTIATE_TEST_SUITE_P(
    Teams,
    RunLanes,
    testing::Values(false, true),
    [](const auto& info) { return info.param ? "team" : "alone"; });

}  // namespace
}  // namespace torch_mesh

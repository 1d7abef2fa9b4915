// Limits of waits, and what ends them.

#include "job/waiting.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include <torch_mesh/error.h>

#include "core/error_of.h"

namespace torch_mesh {
namespace {

std::vector<std::string>& calls() {
  static std::vector<std::string> result;
  return result;
}

struct Waiting : testing::Test {
  Waiting() : limit(wait_limit()) { calls().clear(); }
  ~Waiting() override {
    set_wait_limit(limit);
    set_verdict_hook(nullptr);
    set_interrupt_hook(nullptr);
  }
  const double limit;
};

// Long enough for any limit that is not 0.
constexpr double kAtOnce = std::numeric_limits<double>::min();

TEST_F(Waiting, IsHalfAnHourUnlessItIsSaid) { EXPECT_EQ(wait_limit(), 1800); }

TEST_F(Waiting, BeyondTheLimitIsLate) {
  const Wait wait(3);
  wait.check("all_reduce of w");
  set_wait_limit(kAtOnce);
  const std::string error = error_of([&] { wait.check("all_reduce of w\n"); });
  for (const char* part : {"process 3 did not come within ",
                           "all_reduce of w\\x0a",
                           "TORCH_MESH_TIMEOUT",
                           "[peer-late]"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << " in\n" << error;
  }
}

TEST_F(Waiting, LimitOfZeroIsNone) {
  set_wait_limit(0);
  EXPECT_EQ(wait_limit(), 0);
  EXPECT_EQ(error_of([] { Wait(3).check("x"); }), "");
}

TEST_F(Waiting, LimitsThatAreNoTimeAreErrors) {
  for (const double wrong : {-1.0,
                             std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(error_code_of([&] { set_wait_limit(wrong); }), "process-timeout");
  }
  EXPECT_EQ(wait_limit(), limit);
}

TEST_F(Waiting, HooksAreAskedWithTheProcessTheInterruptFirst) {
  set_verdict_hook(
      [](int process) { calls().push_back("v" + std::to_string(process)); });
  set_interrupt_hook(
      [](int process) { calls().push_back("i" + std::to_string(process)); });
  Wait(2).check("x");
  EXPECT_EQ(calls(), (std::vector<std::string>{"i2", "v2"}));
  set_interrupt_hook(nullptr);
  Wait(-1).check("x");
  EXPECT_EQ(calls().back(), "v-1");
}

TEST_F(Waiting, AVerdictComesBeforeTheLimit) {
  set_wait_limit(kAtOnce);
  set_verdict_hook([](int process) {
    detail::raise(ErrorKind::kProcess, "peer-lost", "process ", process);
  });
  EXPECT_EQ(error_code_of([] { Wait(2).check("x"); }), "peer-lost");
}

}  // namespace
}  // namespace torch_mesh

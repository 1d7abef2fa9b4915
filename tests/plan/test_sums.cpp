// test_sums.cpp: sums over several axes, and what they bring to each device.

#include "plan/sums.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace torch_mesh {
namespace {

struct Case {
  const char* about;
  std::vector<Mesh::Axis> axes;
  const char* from;
  const char* to;
  std::vector<int64_t> sizes;
  const char* steps;

  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.about << ": " << c.from << " -> " << c.to;
  }
};

class Sums : public testing::TestWithParam<Case> {};

TEST_P(Sums, AreFormedInTheFewestBytes) {
  const Case& c = GetParam();
  const Mesh mesh(c.axes);
  const Redistribution plan = plan_redistribution(
      Layout::parse(mesh, c.from),
      Layout::parse(mesh, c.to),
      c.sizes,
      /*itemsize=*/4);
  EXPECT_EQ(plan.str(), c.steps);
}

const std::vector<Mesh::Axis> kCube = {{"a", 2}, {"b", 2}, {"c", 2}};

INSTANTIATE_TEST_SUITE_P(
    OverManyAxes,
    Sums,
    testing::Values(
        Case{"an eighth is left for the second axis of 8 x 8",
             {{"data", 8}, {"model", 8}},
             "(P+, P+)",
             "(R, R)",
             {64, 64},
             "reduce_scatter@data 14 KiB, all_reduce@model 3.5 KiB, "
             "all_gather@data 14 KiB"},
        Case{"uneven eighths: 100 are 13 for each and 9",
             {{"data", 8}, {"model", 8}},
             "(P+, P+)",
             "(R, R)",
             {10, 10},
             "reduce_scatter@data 364 B, all_reduce@model 100 B, "
             "all_gather@data 364 B"},
        Case{"over three axes chunks are cut of chunks",
             kCube,
             "(P+, P+, P+)",
             "(R, R, R)",
             {8},
             "reduce_scatter@a 16 B, reduce_scatter@b 8 B, all_reduce@c 8 B, "
             "all_gather@b 8 B, all_gather@a 16 B"},
        Case{"sums are taken of shards, and these are gathered",
             kCube,
             "(P+, S0, P+)",
             "(R, R, R)",
             {8},
             "reduce_scatter@a 8 B, all_reduce@c 8 B, all_gather@a 8 B, "
             "all_gather@b 16 B"},
        Case{"what is to be cut is cut first",
             kCube,
             "(P+, P+, P+)",
             "(R, R, S0)",
             {16},
             "reduce_scatter@c 32 B, reduce_scatter@a 16 B, all_reduce@b 16 B, "
             "all_gather@a 16 B"},
        Case{"one sum of three stays open",
             kCube,
             "(P+, P+, P+)",
             "(R, P+, R)",
             {8},
             "reduce_scatter@a 16 B, all_reduce@c 16 B, all_gather@a 16 B"},
        Case{"an axis of size 1 takes nothing",
             {{"x", 4}, {"one", 1}},
             "(P+, P+)",
             "(R, R)",
             {8},
             "all_reduce@x 48 B, all_reduce@one 0 B"}));

TEST(Sums, BeginWithTheLastAxisOverSeveralProcesses) {
  auto steps_on = [](const Mesh& mesh) {
    return plan_redistribution(
               Layout::parse(mesh, "(P+, P+)"),
               Layout::replicated(mesh),
               std::vector<int64_t>{1024},
               /*itemsize=*/4)
        .str();
  };
  const std::vector<Mesh::Axis> axes = {{"data", 2}, {"model", 2}};
  EXPECT_EQ(
      steps_on(Mesh(
          axes,
          {Device::parse("cpu:0"),
           Device::parse("cpu:1"),
           Device::parse("cpu:0@1"),
           Device::parse("cpu:1@1")})),
      "reduce_scatter@model 2 KiB, all_reduce@data 2 KiB between processes, "
      "all_gather@model 2 KiB");
  EXPECT_EQ(
      steps_on(Mesh(axes)),
      "reduce_scatter@data 2 KiB, all_reduce@model 2 KiB, "
      "all_gather@data 2 KiB");
}

// --- bytes of each device ----------------------------------------------------

using Received = std::vector<std::vector<int64_t>>;  // [part][device]

// Of 7 elements of one byte on data=2 model=2.
Received received_with(std::vector<int> memories) {
  set_memories_for_testing(std::move(memories));
  const Mesh mesh({{"data", 2}, {"model", 2}});
  set_memories_for_testing({});
  const std::vector<int64_t> numel(mesh.lanes(0).num, 7);
  Received result;
  for (const Step::Part& part :
       parts_of_sum(mesh, /*axes=*/3, /*cut=*/0, numel, /*itemsize=*/1)) {
    result.push_back(part.received);
  }
  return result;
}

TEST(PartsOfASum, BringEachDeviceItsOwnPieces) {
  // Halves of 7 are 4 and 3, and halves of these 2 and 2, 2 and 1.
  const Received wanted = {{4, 4, 3, 3}, {4, 4, 3, 3}, {3, 3, 4, 4}};
  EXPECT_EQ(received_with({0, 1, 2, 3}), wanted);
}

TEST(PartsOfASum, BringNothingAlongAnAxisThatIsInOneMemory) {
  const Received rows = {{4, 0, 3, 0}, {0, 0, 0, 0}, {3, 0, 4, 0}};
  EXPECT_EQ(received_with({0, 0, 1, 1}), rows);
  const Received columns = {{0, 0, 0, 0}, {7, 7, 0, 0}, {0, 0, 0, 0}};
  EXPECT_EQ(received_with({0, 1, 0, 1}), columns);
  EXPECT_EQ(received_with({0, 0, 0, 0}), Received(3));
}

}  // namespace
}  // namespace torch_mesh

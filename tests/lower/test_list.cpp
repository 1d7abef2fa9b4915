// test_list.cpp: the instructions of ops on lists, as text.

#include "lower/list.h"

#include <gtest/gtest.h>

namespace torch_mesh {
namespace {

// An argument of 64 float32, 256 B, on four devices with memories of their own.
struct Given {
  const char* from;  // "plain": a tensor that is on no mesh
  const char* to;
  bool is_written = false;
  int same_as = -1;
  bool lies_in_written = false;
  bool is_of_list = true;
};

struct Case {
  const char* about;
  std::vector<Given> arguments;
  std::vector<std::vector<int>> groups;
  const char* instructions;
  bool is_fused = false;

  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.about;
  }
};

class ListLowering : public ::testing::TestWithParam<Case> {};

TEST_P(ListLowering, GivesInstructions) {
  const Case& c = GetParam();
  set_memories_for_testing({0, 1, 2, 3});
  const Mesh mesh({{"x", 4}});
  set_memories_for_testing({});
  const auto layout = [&mesh](const char* text) {
    return Layout::parse(mesh, "(" + std::string(text) + ")");
  };
  std::vector<Redistribution> moves;
  for (const Given& given : c.arguments) {
    const bool is_plain = std::string(given.from) == "plain";
    moves.push_back(plan_redistribution(
        layout(is_plain ? "R" : given.from),
        layout(given.to),
        std::vector<int64_t>{8, 8},
        /*itemsize=*/4));
  }
  ListFacts facts;
  for (size_t i = 0; i < moves.size(); ++i) {
    const Given& given = c.arguments[i];
    ListFacts::Argument argument;
    argument.moves = &moves[i];
    argument.is_written = given.is_written;
    argument.is_here = std::string(given.from) != "plain";
    argument.may_keep = moves[i].from.has_partial();
    argument.lies_in_written = given.lies_in_written;
    argument.same_as = given.same_as;
    argument.is_of_list = given.is_of_list;
    facts.arguments.push_back(argument);
  }
  facts.groups = c.groups;
  facts.is_fused = c.is_fused;
  EXPECT_EQ(
      text_of(facts, lower_list(facts, /*bucket_bytes=*/400)), c.instructions);
}

constexpr bool kWritten = true;

INSTANTIATE_TEST_SUITE_P(
    Calls,
    ListLowering,
    ::testing::Values(
        Case{"elements of one layout are one call",
             {{"S0", "S0", kWritten},
              {"S0", "S0", kWritten},
              {"S0", "S0"},
              {"S0", "S0"}},
             {{0, 1}},
             "take 2, 3\n"
             "open 0, 1\n"
             "call on elements 0, 1\n"
             "wrote 0, 1\n"
             "make all results\n"},
        Case{"of two layouts, two; what moves does so together",
             {{"S0", "S0", kWritten},
              {"R", "R", kWritten},
              {"S1", "S0"},
              {"S1", "R"}},
             {{1}, {0}},
             "open 0, 1\n"
             "move 2, 3: all_to_all@x 48 B; all_gather@x 192 B\n"
             "dense 2, 3\n"
             "call on elements 1\n"
             "call on elements 0\n"
             "wrote 0, 1\n"
             "make all results\n"},
        Case{"sums that are read whole are reduced together",
             {{"R", "R", kWritten},
              {"R", "R", kWritten},
              {"P+", "R"},
              {"P+", "R"}},
             {{0, 1}},
             "reduce 2, 3: all_reduce@x 384 B; all_reduce@x 384 B\n"
             "take 2, 3\n"
             "open 0, 1\n"
             "call on elements 0, 1\n"
             "wrote 0, 1\n"
             "make all results\n"},
        Case{
            "sums of cut weights are formed in parts, a bucket after the other",
            {{"S0", "S0", kWritten},
             {"S0", "S0", kWritten},
             {"S0", "S0", kWritten},
             {"P+", "S0"},
             {"P+", "S0"},
             {"P+", "S0"}},
            {{0, 1, 2}},
            "form 3, 4: reduce_scatter@x 192 B; reduce_scatter@x 192 B\n"
            "keep 3, 4\n"
            "form 5: reduce_scatter@x 192 B\n"
            "keep 5\n"
            "take 3, 4, 5\n"
            "open 0, 1, 2\n"
            "call on elements 0, 1, 2\n"
            "wrote 0, 1, 2\n"
            "make all results\n"},
        Case{"fused kernels write gradients, and read memory as it lies",
             {{"S0", "S0", kWritten}, {"P+", "S0", kWritten}, {"S0", "S0"}},
             {{0}},
             "form 1: reduce_scatter@x 192 B\n"
             "keep 1\n"
             "take 2\n"
             "open 0, 1\n"
             "dense 2\n"
             "call on elements 0\n"
             "wrote 0, 1\n"
             "make all results\n",
             /*is_fused=*/true},
        Case{"a tensor that comes twice moves once",
             {{"S0", "S0", kWritten},
              {"S1", "S0"},
              {"S1", "S0", !kWritten, /*same_as=*/1}},
             {{0}},
             "open 0\n"
             "move 1: all_to_all@x 48 B\n"
             "dense 1\n"
             "share 2\n"
             "call on elements 0\n"
             "wrote 0\n"
             "make all results\n"},
        Case{"what lies where the element writes gets memory of its own",
             {{"S0", "S0", kWritten},
              {"S1", "S0", !kWritten, -1, /*lies_in_written=*/true}},
             {{0}},
             "open 0\n"
             "move 1: all_to_all@x 48 B\n"
             "own 1\n"
             "dense 1\n"
             "call on elements 0\n"
             "wrote 0\n"
             "make all results\n"},
        Case{"plain tensors are spread, and written back",
             {{"plain", "R", kWritten}, {"R", "R"}},
             {{0}},
             "spread 0\n"
             "take 1\n"
             "call on elements 0\n"
             "write back 0\n"
             "make all results\n"},
        Case{"a number for all elements",
             {{"S0", "S0", kWritten},
              {"plain", "R", !kWritten, -1, false, /*is_of_list=*/false}},
             {{0}},
             "spread 1\n"
             "open 0\n"
             "call on elements 0\n"
             "wrote 0\n"
             "make all results\n",
             /*is_fused=*/true}));

}  // namespace
}  // namespace torch_mesh

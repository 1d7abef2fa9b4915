// test_lower.cpp: the instructions of calls, as text.

#include "lower/lower.h"

#include <gtest/gtest.h>

#include "rules/calls.h"

namespace torch_mesh {
namespace {

struct Case {
  const char* about;
  const char* call;                  // tests/rules/calls.h
  const char* rule;                  // none: the op runs on replicas
  std::vector<const char*> layouts;  // "plain": a tensor that is on no mesh
  const char* instructions;
  std::vector<int> memories = {};
  std::vector<std::vector<int>> aliases = {};  // arguments of one storage
  int window_on = -1;
  bool widens = false;
  bool draws_once = false;

  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.about;
  }
};

// Devices share memories as `memories` says while this lives.
struct Memories {
  explicit Memories(const std::vector<int>& memories) {
    set_memories_for_testing(memories);
  }
  ~Memories() { set_memories_for_testing({}); }
  Memories(const Memories&) = delete;
};

void add_aliases(const Case& c, const Plan& plan, CallFacts& facts) {
  for (const std::vector<int>& together : c.aliases) {
    for (const int i : together) {
      facts.arguments[i].is_aliased = true;
      for (const int j : together) {
        facts.arguments[i].is_read_in_parts |=
            i != j && plan.inputs[j].redistribution.to.has_partial();
      }
    }
  }
}

// The plan of the case, and what a call of it says beside.
LoweredPlan plan_of(const Case& c, CallFacts& facts) {
  const Memories memories(c.memories);
  const Mesh mesh({{"x", 4}});
  const testing::Call made(c.call);
  OpCall call = made.get();
  std::vector<int> written;
  int next = 0;
  for (size_t p = 0; p < call.args.size(); ++p) {
    for (TensorInfo& tensor : call.args[p].tensors) {
      const std::string layout = c.layouts[next];
      CallFacts::Argument argument;
      argument.is_global = argument.is_here = layout != "plain";
      argument.is_written = call.schema->params[p].is_written;
      if (argument.is_here) {
        tensor.layout = Layout::parse(mesh, "(" + layout + ")");
      }
      if (argument.is_written) {
        written.push_back(next);
      }
      facts.arguments.push_back(argument);
      ++next;
    }
  }
  const auto rule = c.rule ? Rule::parse(c.rule) : nullptr;
  LoweredPlan plan = assign_lanes(plan_op(call, rule.get(), written));
  plan.widens = c.widens;
  const bool is_local = plan.plan.kind == Plan::Kind::kLocal;
  for (const OpSchema::Param& returned : call.schema->returns) {
    if (is_local || c.window_on >= 0) {
      facts.results.push_back({returned.is_written, c.window_on});
    }
  }
  facts.is_view = c.window_on >= 0;
  facts.draws_once = c.draws_once;
  add_aliases(c, plan.plan, facts);
  return plan;
}

class Lowering : public ::testing::TestWithParam<Case> {};

TEST_P(Lowering, GivesInstructions) {
  CallFacts facts;
  const LoweredPlan plan = plan_of(GetParam(), facts);
  EXPECT_EQ(text_of(plan, lower(plan, facts)), GetParam().instructions);
}

// Nothing local decides whether a collective runs, and the caller sees nothing
// before all has run.
TEST_P(Lowering, CommunicatesInOneOrderAndCommitsLast) {
  using Kind = Instruction::Kind;
  CallFacts facts;
  const LoweredPlan plan = plan_of(GetParam(), facts);
  const Instructions instructions = lower(plan, facts);
  const auto asks = [](const std::vector<Instruction>& list) {
    std::vector<Instruction> found;
    for (const Instruction& instruction : list) {
      if (may_communicate(instruction.kind)) {
        found.push_back(instruction);
      }
    }
    return found;
  };
  if (!instructions.joined.empty()) {
    EXPECT_EQ(asks(instructions.joined), asks(instructions.lanes));
  }
  for (const auto& list : {instructions.joined, instructions.lanes}) {
    bool commits = false;
    for (const Instruction& instruction : list) {
      const bool is_commit = instruction.kind >= Kind::kWrote;
      EXPECT_TRUE(is_commit || !commits) << name(instruction.kind);
      commits |= is_commit;
    }
    EXPECT_TRUE(commits || list.empty());
  }
}

constexpr const char* kSum = "m k, k n -> m n";
constexpr const char* kPointwise = "x*, x* -> x*";

INSTANTIATE_TEST_SUITE_P(
    Calls,
    Lowering,
    ::testing::Values(
        Case{"slices of one tensor join",
             "a:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"S0", "S0"},
             "take 0, 1\n"
             "where all lie side by side\n"
             "call joined\n"
             "cut result 0\n"
             "make result 0\n"
             "else\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n"},
        Case{"in memories of their own they do not",
             "a:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"S0", "S0"},
             "take 0, 1\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n",
             {0, 1, 2, 3}},
        Case{"parts of a sum are folded in one memory",
             "a:f32[8,4] b:f32[4,6]",
             kSum,
             {"S1", "S0"},
             "take 0, 1\n"
             "where all lie side by side\n"
             "call joined\n"
             "cut result 0\n"
             "make result 0\n"
             "else\n"
             "call on lanes\n"
             "fold result 0\n"
             "make result 0\n"},
        Case{"and stay parts in several",
             "a:f32[8,4] b:f32[4,6]",
             kSum,
             {"S1", "S0"},
             "take 0, 1\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n",
             {0, 1, 2, 3}},
        Case{"of halves they are formed in a wider type",
             "a:f32[8,4] b:f32[4,6]",
             kSum,
             {"S1", "S0"},
             "take 0, 1\n"
             "where all lie side by side\n"
             "call joined\n"
             "cut result 0\n"
             "make result 0\n"
             "else\n"
             "widen 0, 1\n"
             "call on lanes\n"
             "fold result 0\n"
             "round result 0\n"
             "make result 0\n",
             {},
             {},
             -1,
             /*widens=*/true},
        Case{"an argument that lies otherwise moves, in torch's order",
             "a:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"S0", "S1"},
             "take 0\n"
             "move 1: all_to_all@x 24 B\n"
             "dense 1\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n",
             {0, 1, 2, 3}},
        Case{"a sum that is read whole is reduced for all",
             "a:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"P+", "R"},
             "reduce 0: all_reduce@x 192 B\n"
             "take 0, 1\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n"},
        Case{"a sum that is read in parts is formed so, and kept",
             "a:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"P+", "S0"},
             "form 0: reduce_scatter@x 96 B\n"
             "dense 0\n"
             "take 1\n"
             "keep 0\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n",
             {0, 1, 2, 3}},
        Case{"not where another argument lies in its storage",
             "a:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"P+", "S0"},
             "move 0: reduce_scatter@x 96 B\n"
             "dense 0\n"
             "take 1\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n",
             {0, 1, 2, 3},
             {{0, 1}}},
        Case{"what is written in place is opened, and an error breaks it",
             "a!:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"S0", "R"},
             "open 0\n"
             "move 1: slice@x 0 B\n"
             "dense 1\n"
             "call on lanes, an error breaks 0\n"
             "wrote 0\n",
             {0, 1, 2, 3}},
        Case{"a source in the storage that is written gets memory of its own",
             "a!:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"S0", "R"},
             "open 0\n"
             "move 1: slice@x 0 B\n"
             "own 1\n"
             "dense 1\n"
             "call on lanes, an error breaks 0\n"
             "wrote 0\n",
             {0, 1, 2, 3},
             {{0, 1}}},
        Case{"a destination that is a sum: lanes that share a part get zeros",
             "a!:f32[8,6] b:f32[8,4] c:f32[4,6]",
             "m n, m k, k n -> m n linear(0 1, 0 2) adds(0)",
             {"P+", "S1", "S0"},
             "open 0\n"
             "take 1, 2\n"
             "where all lie side by side\n"
             "call joined\n"
             "wrote 0\n"
             "else\n"
             "zeros 0\n"
             "call on lanes, an error breaks 0\n"
             "add 0\n"
             "wrote 0\n"},
        Case{"a plain tensor is spread, and cut",
             "a:f32[8,4] b:f32[8,4]",
             kPointwise,
             {"S0", "plain"},
             "take 0\n"
             "spread 1\n"
             "move 1: slice@x 0 B\n"
             "dense 1\n"
             "where all lie side by side\n"
             "call joined\n"
             "cut result 0\n"
             "make result 0\n"
             "else\n"
             "call on lanes\n"
             "pick result 0\n"
             "make result 0\n"},
        Case{"without a rule the op runs on replicas",
             "a:f32[8,4]",
             nullptr,
             {"S0"},
             "move 0: all_gather@x 96 B\n"
             "dense 0\n"
             "call on lanes\n"
             "copy all results\n"
             "make all results\n",
             {0, 1, 2, 3}},
        Case{"which draw once, for all memories",
             "a:f32[8,4]",
             nullptr,
             {"R"},
             "take 0\n"
             "call once\n"
             "copy all results\n"
             "make all results\n",
             {0, 0, 1, 1},
             {},
             -1,
             false,
             /*draws_once=*/true},
        Case{"a view of what stands is an alias",
             "a:f32[8,4]",
             "a b -> b a",
             {"S0"},
             "take 0\n"
             "call on lanes\n"
             "pick result 0\n"
             "alias result 0\n",
             {},
             {},
             /*window_on=*/0},
        Case{"a view of what has moved is written back",
             "a:f32[8,4]",
             nullptr,
             {"S0"},
             "move 0: all_gather@x 96 B\n"
             "own 0\n"
             "dense 0\n"
             "call on lanes\n"
             "copy all results\n"
             "window result 0\n",
             {},
             {},
             /*window_on=*/0}));

}  // namespace
}  // namespace torch_mesh

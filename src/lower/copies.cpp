// copies.cpp: memory of their own, and in torch's order, for shards that have
// moved.

#include <algorithm>

#include "lower/lower.h"

namespace torch_mesh::passes {

using Kind = Instruction::Kind;

namespace {

// Puts an instruction on some of the slots behind each that moves them.
template <typename IsWanted>
void add_behind_moves(Lowering& call, Kind kind, const IsWanted& is_wanted) {
  std::vector<Instruction> to;
  for (Instruction& instruction : call.to.bring) {
    const bool moves =
        instruction.kind == Kind::kMove || instruction.kind == Kind::kForm;
    Instruction behind{kind};
    for (const int slot : instruction.slots) {
      if (moves && is_wanted(static_cast<size_t>(slot))) {
        behind.slots.push_back(slot);
      }
    }
    to.push_back(std::move(instruction));
    if (!behind.slots.empty()) {
      to.push_back(std::move(behind));
    }
  }
  call.to.bring = std::move(to);
}

}  // namespace

void own_copies(Lowering& call) {
  const std::vector<CallFacts::Argument>& arguments = call.call.arguments;
  const bool any_written = std::ranges::any_of(
      arguments, [](const auto& argument) { return argument.is_written; });
  add_behind_moves(call, Kind::kOwn, [&](size_t slot) {
    const CallFacts::Argument& argument = arguments[slot];
    const bool is_shared = argument.is_written || argument.is_aliased;
    return argument.is_here &&
           (call.call.is_view || (any_written && is_shared));
  });
}

void keep_order(Lowering& call) {
  add_behind_moves(call, Kind::kDense, [](size_t) { return true; });
}

}  // namespace torch_mesh::passes

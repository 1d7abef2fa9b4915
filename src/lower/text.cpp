// text.cpp: instructions, a line each.

#include <functional>

#include "lower/list.h"
#include "lower/lower.h"

namespace torch_mesh {
namespace {

using Kind = Instruction::Kind;

std::string numbers_of(const std::vector<int>& slots) {
  std::string text;
  for (const int slot : slots) {
    text += (text.empty() ? "" : ", ") + std::to_string(slot);
  }
  return text;
}

// Gives the redistribution of an argument.
using MovesOf = std::function<const Redistribution&(int slot)>;

std::string line_of(const Instruction& instruction, const MovesOf& moves_of) {
  const std::vector<int>& slots = instruction.slots;
  std::string line = name(instruction.kind);
  const bool calls = instruction.kind == Kind::kCallLanes ||
                     instruction.kind == Kind::kCallOnce ||
                     instruction.kind == Kind::kCallJoined;
  if (calls) {
    return line +
           (slots.empty() ? "" : ", an error breaks " + numbers_of(slots));
  }
  if (instruction.kind == Kind::kCallGroup) {
    return line + " " + numbers_of(slots);
  }
  if (is_of_results(instruction.kind)) {
    line += slots.empty() ? " all results" : " result " + numbers_of(slots);
  } else {
    line += " " + numbers_of(slots);
  }
  if (may_communicate(instruction.kind) &&
      instruction.kind != Kind::kWriteBack) {
    const char* between = ": ";
    for (const int slot : slots) {
      line += between + moves_of(slot).str();
      between = "; ";
    }
  }
  return line;
}

std::string lines_of(
    const std::vector<Instruction>& instructions,
    const MovesOf& moves_of) {
  std::string text;
  for (const Instruction& instruction : instructions) {
    text += line_of(instruction, moves_of) + "\n";
  }
  return text;
}

}  // namespace

std::string text_of(
    const LoweredPlan& plan,
    const std::vector<Instruction>& instructions) {
  return lines_of(instructions, [&](int slot) -> const Redistribution& {
    return plan.plan.inputs[slot].redistribution;
  });
}

std::string text_of(
    const ListFacts& call,
    const std::vector<Instruction>& instructions) {
  return lines_of(instructions, [&](int slot) -> const Redistribution& {
    return *call.arguments[slot].moves;
  });
}

std::string text_of(const LoweredPlan& plan, const Instructions& instructions) {
  const std::string bring = text_of(plan, instructions.bring);
  const std::string lanes = text_of(plan, instructions.lanes);
  return instructions.joined.empty()
             ? bring + lanes
             : bring + "where all lie side by side\n" +
                   text_of(plan, instructions.joined) + "else\n" + lanes;
}

}  // namespace torch_mesh

// sums.cpp: sums are formed once, for all who hold them.

#include "lower/lower.h"

namespace torch_mesh::passes {

using Kind = Instruction::Kind;

namespace {

// Whether the sum that the argument moves to may become its storage's value.
bool may_keep(const Lowering& call, size_t argument) {
  const CallFacts::Argument& fact = call.call.arguments[argument];
  const Redistribution& moves = call.plan.plan.inputs[argument].redistribution;
  return fact.is_here && !fact.is_written && !fact.is_aliased &&
         moves.from.has_partial() && !moves.to.has_partial();
}

}  // namespace

void form_sums(Lowering& call) {
  // Sums that are read whole are reduced before anything is read.
  std::vector<Instruction> to;
  for (size_t i = 0; i < call.plan.inputs.size(); ++i) {
    if (call.plan.inputs[i].reduces_only && call.stands(i)) {
      add(to, Kind::kReduce, static_cast<int>(i));
    }
  }
  // Others become their storage's value behind all reads.
  Instruction keep{Kind::kKeep};
  for (const Instruction& instruction : call.to.bring) {
    if (instruction.kind != Kind::kMove) {
      to.push_back(instruction);
      continue;
    }
    for (const int slot : instruction.slots) {
      const bool keeps = may_keep(call, static_cast<size_t>(slot));
      add(to, keeps ? Kind::kForm : Kind::kMove, slot);
      if (keeps) {
        keep.slots.push_back(slot);
      }
    }
  }
  if (!keep.slots.empty()) {
    to.push_back(std::move(keep));
  }
  call.to.bring = std::move(to);
}

}  // namespace torch_mesh::passes

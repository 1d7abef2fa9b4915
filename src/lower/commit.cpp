// commit.cpp: what the caller sees, behind all else.

#include "lower/lower.h"

namespace torch_mesh::passes {

using Kind = Instruction::Kind;

void commit(Lowering& call) {
  std::vector<Instruction> to;
  for (size_t i = 0; i < call.call.arguments.size(); ++i) {
    // A plain destination is written by the caller, as a whole.
    if (call.call.arguments[i].is_written && call.call.arguments[i].is_global) {
      add(to,
          call.stands(i) ? Kind::kWrote : Kind::kWriteBack,
          static_cast<int>(i));
    }
  }
  if (call.call.results.empty()) {
    to.push_back({Kind::kMake});
  }
  for (size_t r = 0; r < call.call.results.size(); ++r) {
    const CallFacts::Result& result = call.call.results[r];
    const auto slot = static_cast<int>(r);
    if (result.window_on >= 0) {
      const bool stands = call.stands(static_cast<size_t>(result.window_on));
      add(to, stands ? Kind::kAlias : Kind::kWindow, slot);
    } else if (!result.is_argument) {
      add(to, Kind::kMake, slot);
    }
  }
  const auto behind = [&to](std::vector<Instruction>& instructions) {
    instructions.insert(instructions.end(), to.begin(), to.end());
  };
  if (!call.to.joined.empty()) {
    behind(call.to.joined);
  }
  behind(call.to.lanes);
}

}  // namespace torch_mesh::passes

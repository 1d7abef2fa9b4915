// instruction.cpp: names and kinds.

#include "lower/instruction.h"

#include <torch_mesh/error.h>

namespace torch_mesh {

using Kind = Instruction::Kind;

const char* name(Kind kind) {
  switch (kind) {
    case Kind::kReduce:
      return "reduce";
    case Kind::kTake:
      return "take";
    case Kind::kOpen:
      return "open";
    case Kind::kSpread:
      return "spread";
    case Kind::kMove:
      return "move";
    case Kind::kForm:
      return "form";
    case Kind::kShare:
      return "share";
    case Kind::kOwn:
      return "own";
    case Kind::kDense:
      return "dense";
    case Kind::kKeep:
      return "keep";
    case Kind::kWiden:
      return "widen";
    case Kind::kZeros:
      return "zeros";
    case Kind::kCallLanes:
      return "call on lanes";
    case Kind::kCallOnce:
      return "call once";
    case Kind::kCallJoined:
      return "call joined";
    case Kind::kCallGroup:
      return "call on elements";
    case Kind::kAdd:
      return "add";
    case Kind::kFold:
      return "fold";
    case Kind::kPick:
      return "pick";
    case Kind::kCopy:
      return "copy";
    case Kind::kRound:
      return "round";
    case Kind::kCut:
      return "cut";
    case Kind::kWrote:
      return "wrote";
    case Kind::kWriteBack:
      return "write back";
    case Kind::kAlias:
      return "alias";
    case Kind::kWindow:
      return "window";
    case Kind::kMake:
      return "make";
  }
  TORCH_MESH_ASSERT(false, "an instruction of no kind");
}

bool is_of_results(Kind kind) {
  return (kind >= Kind::kFold && kind <= Kind::kCut) || kind >= Kind::kAlias;
}

bool may_communicate(Kind kind) {
  return kind == Kind::kReduce || kind == Kind::kMove || kind == Kind::kForm ||
         kind == Kind::kWriteBack;
}

void add(std::vector<Instruction>& to, Kind kind, int slot) {
  if (to.empty() || to.back().kind != kind) {
    to.push_back({kind});
  }
  to.back().slots.push_back(slot);
}

}  // namespace torch_mesh

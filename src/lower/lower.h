// lower.h: from a plan to instructions.
//
// Lowering is a list of passes, a file each; what one decides the next may
// change. All are pure functions of the plan and of the facts below.

#pragma once

#include <string>
#include <vector>

#include "lower/lowered_plan.h"

namespace torch_mesh {

// What a call says beside its plan.
struct CallFacts {
  struct Argument {
    bool is_written = false;
    bool is_global = false;
    bool is_here = false;  // a global tensor on the plan's mesh
    // Another argument lies in the same storage.
    bool is_aliased = false;
    // Another argument reads the same storage as a pending sum: x * x.
    bool is_read_in_parts = false;
  };
  struct Result {
    bool is_argument = false;  // a destination, which is returned
    int window_on = -1;        // argument in whose storage a view lies
  };
  std::vector<Argument> arguments;  // one for each tensor of the call
  // One for each returned tensor, lists laid flat; empty if only a run can tell
  // how many there are, and all are new.
  std::vector<Result> results;
  bool is_view = false;
  bool is_python = false;   // runs Python, which no lane may share
  bool draws_once = false;  // random numbers, of replicas
};

Instructions lower(const LoweredPlan& plan, const CallFacts& call);

// The passes, in their order. Each sees the instructions of those before.
namespace passes {

// A call that is being lowered.
struct Lowering {
  const LoweredPlan& plan;
  const CallFacts& call;
  Instructions to = {};

  // Whether the lanes read and write the argument where it lies; a pending sum
  // that only has to be reduced then lies there.
  bool stands(size_t argument) const;
};

// bring.cpp: how each argument gets to the mesh and its layout.
void bring(Lowering& call);
// sums.cpp: sums are formed once, for all who hold them.
void form_sums(Lowering& call);
// copies.cpp: what has moved lies as torch would have it.
void keep_order(Lowering& call);
// copies.cpp: memory of their own, before that, for shards that somebody
// writes.
void own_copies(Lowering& call);
// call.cpp: the local op on lanes, and on joined shards.
void call_local(Lowering& call);
// parts.cpp: lanes of one memory that share a part of a sum.
void share_parts(Lowering& call);
// widen.cpp: parts of half-precision sums in a wider type.
void widen_sums(Lowering& call);
// commit.cpp: what the caller sees.
void commit(Lowering& call);

}  // namespace passes

// A line for each instruction, with the numbers of its arguments: "move 1:
// all_gather@model 24 B".
std::string text_of(
    const LoweredPlan& plan,
    const std::vector<Instruction>& instructions);
std::string text_of(const LoweredPlan& plan, const Instructions& instructions);

}  // namespace torch_mesh

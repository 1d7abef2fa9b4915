// instruction.h: what a planned call does, one step after the other, as plain
// data.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace torch_mesh {

// One step, on some arguments or results of the call. Those of its arguments
// are numbered as the tensors of the call, lists laid flat.
struct Instruction {
  enum class Kind : uint8_t {
    // Arguments, until each has the shards that the lanes read.
    kReduce,  // pending sums, in buckets, for all who hold them
    kTake,    // the shards, as they stand
    kOpen,    // the shards, to be written in place
    kSpread,  // a tensor that is not on this mesh, to each memory
    kMove,    // the steps of the argument's redistribution
    kForm,    // the same of a pending sum, to be kept
    kShare,   // what an earlier argument, the same tensor, has moved to
    kOwn,     // copies: somebody writes where they lie
    kDense,   // in the order of dims that torch would give them
    kKeep,    // the storage's value is the sum that was formed
    kWiden,   // to the type in which parts of a sum are formed
    kZeros,   // a destination that is a sum: -0.0 for lanes that share a part
    // The local op. Its slots are the destinations that an error leaves half
    // written.
    kCallLanes,   // on each lane
    kCallOnce,    // on one lane: random numbers, drawn once for all memories
    kCallJoined,  // on whole tensors of which the shards are slices
    kCallGroup,   // on each lane; the slots are elements of lists
    kAdd,         // what lanes wrote into kZeros, to the sum
    // Results, until each has the shards of its layout.
    kFold,   // lanes of one memory are summed
    kPick,   // of the lanes that yield a shard the first
    kCopy,   // to the memories where nothing ran
    kRound,  // back from the wider type
    kCut,    // slices of a joined result
    // What the caller sees.
    kWrote,      // a destination was written in place
    kWriteBack,  // its new value is written over it
    kAlias,      // a result is a window where its argument lies
    kWindow,     // the same of an argument that has moved: to be written back
    kMake,       // a result is a new tensor
  };
  Kind kind;
  std::vector<int> slots = {};  // results of kCopy and kMake: none is all

  bool operator==(const Instruction&) const = default;
};

// "move", "call on lanes".
const char* name(Instruction::Kind kind);

// Whether its slots are results, not arguments.
bool is_of_results(Instruction::Kind kind);

// Whether it may ask the communicator for something.
bool may_communicate(Instruction::Kind kind);

// The instructions of a call. `bring` is for all; where the shards of all
// arguments then lie side by side in one memory `joined` follows, if there is
// any, else `lanes`. What is asked of the communicator does not depend on it.
struct Instructions {
  std::vector<Instruction> bring;
  std::vector<Instruction> joined;
  std::vector<Instruction> lanes;

  bool operator==(const Instructions&) const = default;
};

// Adds to the last instruction if it is of this kind, else a new one.
void add(std::vector<Instruction>& to, Instruction::Kind kind, int slot);

}  // namespace torch_mesh

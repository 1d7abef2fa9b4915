// list.h: the instructions of an op on lists, whose elements are computed each
// in its layout and move together.

#pragma once

#include <string>
#include <vector>

#include "lower/instruction.h"
#include "plan/element_plan.h"

namespace torch_mesh {

// An argument is a tensor of a list, or one for all elements; they are numbered
// as the tensors of the call.
struct ListFacts {
  struct Argument {
    const Redistribution* moves = nullptr;
    bool is_written = false;
    bool is_here = false;  // on the call's mesh
    // Has `moves.from` still, all of its storage, in memory of its own: a sum
    // that is formed may become the storage's value.
    bool may_keep = false;
    // Lies in a storage that the element writes.
    bool lies_in_written = false;
    // An earlier argument that is the same tensor and moves alike; else -1.
    int same_as = -1;
    // Of one element, not of all.
    bool is_of_list = true;
  };
  std::vector<Argument> arguments;
  // Elements that are one call of the local op: those cut along the same axes.
  std::vector<std::vector<int>> groups;
  // Kernels that read memory as it lies.
  bool is_fused = false;
};

// Of the form "bring, call each group, commit". Sums are formed in buckets of
// at most `bucket_bytes`; of one the parts are gone before the next begins.
std::vector<Instruction> lower_list(
    const ListFacts& call,
    int64_t bucket_bytes);

// A line for each instruction, as those of other ops have.
std::string text_of(
    const ListFacts& call,
    const std::vector<Instruction>& instructions);

}  // namespace torch_mesh

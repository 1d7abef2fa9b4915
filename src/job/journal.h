// journal.h: what a program has done on a mesh so far, as one number.
//
// Two processes whose numbers are equal have done the same: who communicates
// shows his to the other, and nobody takes a value from a program that went
// another way.

#pragma once

#include <cstdint>
#include <string_view>

#include <torch_mesh/mesh.h>

#include "job/message.h"

namespace torch_mesh {

// Notes a step of all processes of `mesh`, and gives what this process says of
// it: `text` goes into the number.
// Threads: may be called from any; order between threads is the caller's.
Stamp note_step(const Mesh& mesh, std::string_view text);
// Notes something that is done without communicating, and equally everywhere.
void note(const Mesh& mesh, uint64_t what);

// A branch of the journal of `mesh`, for steps that another thread does while
// the program goes on: they are numbered as if they were done here.
uint64_t begin_branch(const Mesh& mesh);
// While this lives, what this thread notes goes into the branch.
class OnBranch {
 public:
  explicit OnBranch(uint64_t branch);
  ~OnBranch();
  OnBranch(const OnBranch&) = delete;
  OnBranch& operator=(const OnBranch&) = delete;

 private:
  uint64_t hash_;
};

}  // namespace torch_mesh

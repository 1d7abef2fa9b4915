// noted_call.h: what a process of a job does, for the others to compare.

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// Goes into the number by which the processes of the call's mesh tell that they
// do the same (job/journal.h): the op, its numbers, and the sizes, dtypes,
// offsets and layouts of its tensors. Views do not: one process may look at its
// tensors as it likes. Of an op that draws: where its generator stands, too.
//
// Where the job checks each call (TORCH_MESH_CHECK=1) the processes compare all
// plain values and the state of the random generator too, at once: throws
// [processes-differ], which names the first call that differs.
void note_call(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors);

// The same of numbers that are drawn for all of a mesh, by no op that is noted.
//   chance  that a number is 1
void note_draw(const Mesh& mesh, double chance);

// The same of a plain tensor that becomes a global one: its sizes and dtype,
// and where the job checks each call its values.
void note_distributed(const at::Tensor& plain, const Layout& layout);

}  // namespace torch_mesh

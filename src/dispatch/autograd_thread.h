// autograd_thread.h: where autograd runs the mesh's backward.

#pragma once

namespace torch_mesh {

// Whether autograd's engine has looked how many devices there are. It makes a
// thread for each, and after that a forked child can do no backward: with the
// mesh it would be so for programs that never use it. So the mesh says that it
// has no device until this is true.
bool autograd_is_prepared();

// Called by the ops on the mesh that autograd records; cheap after a thread's
// first one. Threads: safe.
//
// Backward passes that this thread starts run on it, as those of the CPU do.
// On a thread of autograd's own they would have a second OpenMP team: with more
// threads than cores libgomp no longer waits at barriers but sleeps, and each
// parallel loop costs a wake-up (a transformer trains at 0.7 of the speed). A
// program that wants autograd's threads says so afterwards, with
// torch.autograd.set_multithreading_enabled(True); for it autograd gets the
// queue that it makes at the first backward of a process only, which may have
// been before the mesh was registered.
void prepare_autograd();

}  // namespace torch_mesh

// plain_gradients.h: gradients of plain tensors that took part on the mesh.

#pragma once

#include "run/call_tensors.h"

namespace torch_mesh {

// For each plain tensor of the call that requires grad: its gradient, which
// arrives on the mesh, is brought to the tensor's device before anybody sees
// it. Plain torch would end backward there: "expected device cpu but got mesh".
// Called below autograd, while it records. Threads: safe.
void bring_gradients_home(const CallTensors& tensors);

// The other way round, for a call that writes to a plain tensor: gradients of
// its global tensors arrive plain.
void bring_gradients_to_mesh(const CallTensors& tensors);

// Called with the results of a call that one of these was called for: gradients
// that its node makes are brought home before autograd adds to them what other
// ops contribute. Its node exists once the results are used. Threads: safe.
void watch_results(c10::ArrayRef<c10::IValue> results);

}  // namespace torch_mesh

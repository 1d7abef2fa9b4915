// call_tensors.h: the tensors of a call, as they were when it began.

#pragma once

#include <memory>
#include <string>

#include <c10/util/SmallVector.h>

#include "run/op.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {

// The tensors of a call, in the order in which plans count them.
struct CallTensors {
  struct Entry {
    const at::Tensor* tensor;
    int arg;  // index of the parameter
    bool is_global;
    bool is_written;
    // Of a pending sum its parts when the call began: another thread may form
    // the sum at any time. Else nullptr. See hold_sums().
    std::shared_ptr<const Held> parts = nullptr;
  };
  c10::SmallVector<Entry, 6> entries;
  bool any_global = false;
  bool any_written = false;
  // A tensor that claims the mesh device and is not ours: a FakeTensor.
  bool any_fake = false;
  // A plain tensor whose gradient is asked for.
  bool any_plain_grad = false;
};

// `args`: the arguments of the call, one for each parameter.
CallTensors tensors_of(const Op& op, c10::ArrayRef<c10::IValue> args);

// Takes hold of the pending sums of a call that is about to be planned, so that
// it runs as it was planned. Those that it writes in place are formed, if
// others have views of their storage: another thread might form them while
// their parts are written.
void hold_sums(const Op& op, CallTensors& tensors);

// The argument on whose storage a view of this alias set is a window; -1 for
// results that are no views of a global tensor.
int viewed_argument(const Op& op, const CallTensors& tensors, int alias);

// Layout in which a tensor of a call counts: plain ones are replicated.
Layout layout_in_call(const CallTensors::Entry& entry);

// "in aten::add.Tensor (S0) (R) on mesh batch=2", for errors.
std::string context_of(
    const Op& op,
    const CallTensors& tensors,
    const Mesh& mesh);

// "f32[8, 16] (S0, R)".
std::string text_of(const CallTensors::Entry& entry);

// "f32", "i64".
const char* dtype_text(c10::ScalarType dtype);

}  // namespace torch_mesh

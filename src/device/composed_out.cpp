// composed_out.cpp: counts versions under composed out= ops as the CPU does.
//
// Such an op (inner, tensordot, linalg.norm) resizes its destination with
// at::native::resize_output. A tensor of the CPU that resizes at once; one of
// any other device through resize_, the op that users call, which counts a
// version of its own under autograd. The two look alike to resize_, so the
// composed op says that it is running.

#include "device/composed_out.h"

#include <ATen/core/stack.h>

#include "device/operators.h"

namespace torch_mesh {
namespace {

using Key = c10::DispatchKey;
using Stack = torch::jit::Stack;

thread_local bool is_in_composed_out = false;

class InComposedOut {
 public:
  InComposedOut() : before_(is_in_composed_out) { is_in_composed_out = true; }
  ~InComposedOut() { is_in_composed_out = before_; }
  InComposedOut(const InComposedOut&) = delete;
  InComposedOut& operator=(const InComposedOut&) = delete;

 private:
  bool before_;
};

// Runs torch's composition, which stands at the device's own key, with all
// other keys in force.
void run_composed(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet,
    Stack* stack) {
  const InComposedOut here;
  op.redispatchBoxed(c10::DispatchKeySet(Key::PrivateUse1), stack);
}

// torch's own kernel under autograd, which is the same for every device;
// without the key that counts where a composed op resizes.
void resize(
    const c10::OperatorHandle& op,
    c10::DispatchKeySet keys,
    Stack* stack) {
  static const auto* kernel =
      new auto(op.getComputedKernelForDispatchKey(Key::AutogradCPU));
  kernel->callBoxed(
      op, is_in_composed_out ? keys.remove(Key::ADInplaceOrView) : keys, stack);
}

bool is_composed_out(const c10::OperatorHandle& op) {
  if (!op.hasKernelForDispatchKey(Key::CompositeImplicitAutograd) ||
      op.hasKernelForDispatchKey(Key::PrivateUse1) ||
      op.hasKernelForDispatchKey(Key::AutogradPrivateUse1)) {
    return false;
  }
  // A factory (randn) and diff resize with resize_ itself, on the CPU too.
  return takes_out(op.schema()) && takes_tensor(op.schema()) &&
         op.schema().name() != "aten::diff";
}

}  // namespace

void register_if_composed_out(const c10::OperatorHandle& op) {
  if (is_composed_out(op)) {
    add_kernel(
        op.operator_name(),
        Key::AutogradPrivateUse1,
        c10::KernelFunction::makeFromBoxedFunction<&run_composed>());
  }
}

void register_resize() {
  add_kernel(
      {"aten::resize_", ""},
      Key::AutogradPrivateUse1,
      c10::KernelFunction::makeFromBoxedFunction<&resize>());
}

}  // namespace torch_mesh

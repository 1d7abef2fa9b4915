// registration.cpp: makes `mesh` a device of torch.
//
// The boxed kernel is registered for every aten operator that is not composed
// of others: a backend fallback alone would lose to the
// CompositeExplicitAutogradNonFunctional kernels of structured ops.

#include <mutex>

#include <ATen/EmptyTensor.h>
#include <ATen/Version.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>
#include <torch/version.h>

#include <torch_mesh/error.h>
#include <torch_mesh/rule.h>
#include <torch_mesh/tensor.h>

#include "device/autocast.h"
#include "device/composed_out.h"
#include "device/hooks.h"
#include "device/operators.h"
#include "device/plain_beside.h"
#include "dispatch/autograd_thread.h"
#include "dispatch/device_index.h"
#include "dispatch/ops.h"
#include "dispatch/program.h"
#include "program/programs.h"
#include "program/sparse.h"
#include "program/storage_ops.h"
#include "rules/families.h"
#include "run/foreach.h"
#include "run/other_kinds.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "tensor/capacity.h"
#include "tensor/first_storage.h"
#include "tensor/global_tensor.h"
#include "tensor/window.h"
#include "trace/explain.h"

namespace torch_mesh {
namespace {

constexpr auto kKey = c10::DispatchKey::PrivateUse1;
constexpr auto kDevice = c10::DeviceType::PrivateUse1;

// One operator's kernel, which knows its Op from the first call on.
class BoxedKernel final : public c10::OperatorKernel {
 public:
  void operator()(
      const c10::OperatorHandle& handle,
      c10::DispatchKeySet,
      Stack* stack) {
    const Op* op = op_.load(std::memory_order_acquire);
    if (!op) [[unlikely]] {
      op = &op_of(handle);
      op_.store(op, std::memory_order_release);
    }
    run_op(*op, *stack);
  }

 private:
  std::atomic<const Op*> op_{nullptr};
};

// A program in place of torch's composition of an operator. It runs above the
// mesh's own kernel, and what it calls is recorded by autograd.
class ComposedKernel final : public c10::OperatorKernel {
 public:
  ComposedKernel(const Op& op, Program::Run run, bool under_autograd)
      : op_(op), run_(run), under_autograd_(under_autograd) {}

  void operator()(
      const c10::OperatorHandle&,
      c10::DispatchKeySet,
      Stack* stack) {
    run_(CallArgs(op_, *stack, under_autograd_));
  }

 private:
  const Op& op_;
  const Program::Run run_;
  const bool under_autograd_;
};

// Under autograd, and for inference tensors, which have no autograd key.
void register_composed(const Program& program) {
  const std::string name = program.name;
  const size_t dot = name.find('.');
  const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(
      name.substr(0, dot).c_str(),
      dot == std::string::npos ? "" : name.substr(dot + 1).c_str());
  for (const auto key : {kKey, c10::DispatchKey::AutogradPrivateUse1}) {
    add_kernel(
        handle.operator_name(),
        key,
        c10::KernelFunction::makeFromBoxedFunctor<ComposedKernel>(
            std::make_unique<ComposedKernel>(
                op_of(handle), program.run, key != kKey)));
  }
}

// Operators of other libraries, also those registered later.
void fallback(const c10::OperatorHandle& handle, Stack* stack) {
  const Op& op = op_of(handle);
  const int device = op.schema.param("device");
  if (device >= 0) {
    const c10::IValue& asked =
        (*stack)[stack->size() - op.params.size() + device];
    if (asked.isDevice()) {
      check_device_index(asked.toDevice());
    }
  }
  run_op(op, *stack);
}

at::Tensor empty_strided(
    c10::IntArrayRef sizes,
    c10::IntArrayRef strides,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device> device,
    std::optional<bool>) {
  if (device) {
    check_device_index(*device);
  }
  const c10::ScalarType type = c10::dtype_or_default(dtype);
  // Throws if that many bytes cannot be counted.
  const size_t num_bytes =
      at::detail::computeStorageNbytes(sizes, strides, c10::elementSize(type));
  const Layout layout = Layout::replicated(current_mesh());
  check_capacity(layout, sizes, num_bytes, /*is_placed=*/false);
  const at::Tensor made = make_unwritten(layout, sizes, strides, type);
  MeshStorage::of(made)->place(false);
  return made;
}

at::Tensor empty(
    c10::IntArrayRef sizes,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> pin_memory,
    std::optional<c10::MemoryFormat> memory_format) {
  for (int64_t size : sizes) {
    TORCH_CHECK(
        size >= 0,
        "Trying to create tensor with negative dimension ",
        size,
        ": ",
        sizes);
  }
  std::vector<int64_t> strides;
  switch (memory_format.value_or(c10::MemoryFormat::Contiguous)) {
    case c10::MemoryFormat::ChannelsLast:
      strides = c10::get_channels_last_strides_2d(sizes);
      break;
    case c10::MemoryFormat::ChannelsLast3d:
      strides = c10::get_channels_last_strides_3d(sizes);
      break;
    default:
      strides = contiguous_strides(as_span(sizes));
  }
  return empty_strided(sizes, strides, dtype, layout, device, pin_memory);
}

// The zeros that forward-mode autograd computes with, as memory that nobody has
// written: torch's own have no memory at all, on any device.
at::Tensor efficient_zeros(
    c10::IntArrayRef sizes,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>,
    std::optional<c10::Device>,
    std::optional<bool>) {
  const LocalOps local;
  return at::zeros(
      sizes, at::TensorOptions(c10::dtype_or_default(dtype)).device(kDevice));
}

// Ops on a tensor of a kind that the mesh does not hold.
template <OtherKind kind>
void refuse_op(const c10::OperatorHandle& op, Stack*) {
  try {
    refuse(op.schema().name(), kind);
  } catch (const CoreError& error) {
    rethrow_for_torch(error);
  }
}

template <OtherKind kind>
void refuse_ops(c10::DispatchKey key) {
  // Registrations live as long as the process.
  add_fallback(
      key, c10::KernelFunction::makeFromBoxedFunction<&refuse_op<kind>>());
}

bool compatible_shallow_copy(const at::Tensor&, const at::Tensor&) {
  return true;
}

// An operator that torch composes of others keeps that composition, unless the
// mesh has a rule or a kernel for it.
bool is_ours(const c10::OperatorName& name, const c10::OperatorHandle& op) {
  using Key = c10::DispatchKey;
  const std::string full = name.overload_name.empty()
                               ? name.name
                               : name.name + "." + name.overload_name;
  // silu_backward and mish_backward have a kernel on the CPU, and a composition
  // for other devices, which rounds more often.
  const bool is_composed =
      op.hasKernelForDispatchKey(Key::CompositeImplicitAutograd) &&
      !(op.hasKernelForDispatchKey(Key::CPU) && find_rule(full));
  const bool is_program = find_program(full, Program::When::kAlways) ||
                          find_program(full, Program::When::kMayDecline);
  if (is_composed || op.hasKernelForDispatchKey(kKey) ||
      !(takes_tensor(op.schema()) || takes_out(op.schema()) || is_program)) {
    return false;
  }
  if (!op.hasKernelForDispatchKey(Key::CompositeExplicitAutograd)) {
    return true;
  }
  // torch resizes a destination, checks it and counts its versions in ways that
  // differ from one such composition to the other; that of mode knows no mesh.
  if (takes_out(op.schema()) && name.name != "aten::mode") {
    return false;
  }
  return is_program || is_foreach_op(full) || find_rule(full) ||
         op.hasTag(at::Tag::pointwise) || op.hasTag(at::Tag::inplace_view) ||
         op.hasTag(at::Tag::nondeterministic_seeded);
}

void register_kernels() {
  // Registrations live as long as the process.
  register_resize();
  static auto* aten = new torch::Library(
      torch::Library::IMPL, "aten", kKey, __FILE__, __LINE__);
  aten->impl("empty.memory_format", empty);
  aten->impl("empty_strided", empty_strided);
  aten->impl("_efficientzerotensor", efficient_zeros);
  aten->impl("_has_compatible_shallow_copy_type", compatible_shallow_copy);
  for (const Program& program : all_programs()) {
    if (program.when == Program::When::kComposed) {
      register_composed(program);
    }
  }
  // Once a nested tensor is made, autograd asks it for its sizes where no error
  // can be thrown.
  for (const char* makes_nested : {"aten::_nested_tensor_from_tensor_list",
                                   "aten::_nested_view_from_buffer"}) {
    add_kernel(
        {makes_nested, ""},
        kKey,
        c10::KernelFunction::makeFromBoxedFunction<
            &refuse_op<OtherKind::kNested>>());
  }
  // All others, except those that have a kernel now.
  auto& dispatcher = c10::Dispatcher::singleton();
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    if (name.name.rfind("aten::", 0) != 0) {
      continue;
    }
    const auto op = dispatcher.findOp(name);
    if (!op || !op->hasSchema()) {
      continue;
    }
    register_if_composed_out(*op);
    register_if_compares_devices(*op);
    if (is_ours(name, *op)) {
      add_kernel(
          name,
          kKey,
          c10::KernelFunction::makeFromBoxedFunctor<BoxedKernel>(
              std::make_unique<BoxedKernel>()));
    }
  }
  add_fallback(kKey, c10::KernelFunction::makeFromBoxedFunction<&fallback>());
  refuse_ops<OtherKind::kSparse>(c10::DispatchKey::SparsePrivateUse1);
  refuse_ops<OtherKind::kSparse>(c10::DispatchKey::SparseCsrPrivateUse1);
  refuse_ops<OtherKind::kNested>(c10::DispatchKey::NestedTensorPrivateUse1);
  refuse_ops<OtherKind::kQuantized>(c10::DispatchKey::QuantizedPrivateUse1);
}

// A C++ program may run beside another torch than it was compiled against,
// whose structures differ. (Python's module compares before it calls.)
void check_torch() {
  const std::string key = "TORCH_VERSION=";
  const std::string config = at::show_config();
  const std::string compiled = std::to_string(TORCH_VERSION_MAJOR) + "." +
                               std::to_string(TORCH_VERSION_MINOR) + ".";
  const size_t found = config.find(key);
  TORCH_CHECK(
      found == std::string::npos ||
          config.compare(found + key.size(), compiled.size(), compiled) == 0,
      "torch_mesh: this engine is for torch ",
      compiled,
      "*, and another torch is running: ",
      config.substr(found, config.find(',', found) - found),
      ".\nHint: compile the program and the engine against the torch that "
      "runs. [no-engine]");
}

}  // namespace

c10::Device mesh_device() { return {c10::DeviceType::PrivateUse1, 0}; }

void register_device() {
  static std::once_flag once;
  std::call_once(once, [] {
    check_torch();
    const std::string owner = c10::get_privateuse1_backend();
    TORCH_CHECK(
        !c10::is_privateuse1_backend_registered() || owner == "mesh",
        "register_device: torch's extra device is \"",
        owner,
        "\", so it cannot be \"mesh\".\nHint: use one of the two libraries "
        "in a process. [device-owned]");
    c10::register_privateuse1_backend("mesh");
    add_programs(all_programs());
    add_programs(all_storage_ops());
    register_hooks();
    register_kernels();
    register_autocast();
    programs::register_sparse_products();
    rules::on_new_rule(&clear_plans);
    on_first_storage = &prepare_autograd;
  });
}

}  // namespace torch_mesh

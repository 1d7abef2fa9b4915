// call_tensors.cpp: tensors among the arguments of a call.

#include "run/call_tensors.h"

#include "tensor/global_tensor.h"
#include "tensor/pending_sums.h"

namespace torch_mesh {
namespace {

void add_tensor(
    CallTensors& tensors,
    const at::Tensor& tensor,
    int arg,
    bool is_written) {
  if (!tensor.defined()) {
    return;
  }
  const bool global = is_global(tensor);
  tensors.any_global |= global;
  tensors.any_fake |=
      !global && tensor.unsafeGetTensorImpl()->key_set().has_backend(
                     c10::BackendComponent::PrivateUse1Bit);
  tensors.any_plain_grad |= !global && tensor.requires_grad();
  tensors.entries.push_back({&tensor, arg, global, is_written});
  tensors.any_written |= is_written;
}

}  // namespace

const char* dtype_text(c10::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "f32";
    case at::kDouble:
      return "f64";
    case at::kHalf:
      return "f16";
    case at::kBFloat16:
      return "bf16";
    case at::kLong:
      return "i64";
    case at::kInt:
      return "i32";
    case at::kShort:
      return "i16";
    case at::kChar:
      return "i8";
    case at::kByte:
      return "u8";
    case at::kBool:
      return "b8";
    case at::kComplexFloat:
      return "c64";
    case at::kComplexDouble:
      return "c128";
    default:
      return c10::toString(dtype);
  }
}

CallTensors tensors_of(const Op& op, c10::ArrayRef<c10::IValue> args) {
  CallTensors tensors;
  for (size_t i = 0; i < args.size(); ++i) {
    const c10::IValue& value = args[i];
    const bool written = op.schema.params[i].is_written;
    switch (op.params[i]) {
      case Op::ParamKind::kTensor:
        if (value.isTensor()) {
          add_tensor(tensors, value.toTensor(), i, written);
        }
        break;
      case Op::ParamKind::kTensorList:
      case Op::ParamKind::kOptionalTensorList:
        if (value.isList()) {
          for (const c10::IValue& element : value.toListRef()) {
            if (element.isTensor()) {
              add_tensor(tensors, element.toTensor(), i, written);
            }
          }
        }
        break;
      default:
        break;
    }
  }
  return tensors;
}

namespace {

// Whether an op in place may write to the parts of a pending sum: nobody else
// has a view of the storage, or all of it gets another value.
bool may_write_parts(const Op& op, const at::Tensor& tensor) {
  const bool is_all =
      tensor.numel() * static_cast<int64_t>(tensor.itemsize()) ==
      static_cast<int64_t>(tensor.storage().nbytes());
  return tensor.storage().use_count() == 1 || (op.overwrites && is_all);
}

}  // namespace

void hold_sums(const Op& op, CallTensors& tensors) {
  for (CallTensors::Entry& entry : tensors.entries) {
    entry.parts = nullptr;
    const at::Tensor& tensor = *entry.tensor;
    if (!entry.is_global || settled_shards(tensor) || is_unwritten(tensor) ||
        !layout_of(tensor).has_partial()) {
      continue;
    }
    if (!entry.is_written) {
      entry.parts = std::make_shared<const Held>(held_memory(tensor));
    } else if (!may_write_parts(op, tensor)) {
      reduce_pending(tensor, layout_of(tensor).partial_axes());
    }
  }
}

int viewed_argument(const Op& op, const CallTensors& tensors, int alias) {
  for (size_t i = 0; op.is_view && alias >= 0 && i < tensors.entries.size();
       ++i) {
    const CallTensors::Entry& entry = tensors.entries[i];
    if (entry.is_global && op.schema.params[entry.arg].alias == alias) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

Layout layout_in_call(const CallTensors::Entry& entry) {
  return entry.parts       ? entry.parts->layout
         : entry.is_global ? layout_of(*entry.tensor)
                           : Layout();
}

std::string context_of(
    const Op& op,
    const CallTensors& tensors,
    const Mesh& mesh) {
  std::string text = "in " + op.schema.name;
  for (const CallTensors::Entry& entry : tensors.entries) {
    text += " " + layout_in_call(entry).str();
  }
  return text + " on mesh " + mesh.str();
}

std::string text_of(const CallTensors::Entry& entry) {
  std::string text = dtype_text(entry.tensor->scalar_type());
  text += "[";
  for (int64_t d = 0; d < entry.tensor->dim(); ++d) {
    text += (d ? ", " : "") + std::to_string(entry.tensor->size(d));
  }
  return text + "] " + layout_in_call(entry).str();
}

}  // namespace torch_mesh

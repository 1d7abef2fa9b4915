// call_key.cpp: arguments from the stack, as numbers and as plain data.

#include "dispatch/call_key.h"

#include <ATen/Context.h>
#include <c10/core/DefaultDtype.h>

namespace torch_mesh {
namespace {

// Kinds of values in a key. A tensor's word holds its dtype and flags too.
enum Word : uint64_t {
  kNoneWord = 1,
  kTensorWord,
  kPlainTensorWord,
  kListWord,
  kIntWord,
  kBoolWord,
  kDoubleWord,
  kComplexWord,
  kStringWord,
  kOtherWord,
};

bool is_free(const CallTensors::Entry& entry) {
  return entry.is_written && entry.is_global && is_blank(*entry.tensor);
}

void add_tensor_words(CallKey& key, const CallTensors::Entry& entry) {
  const at::Tensor& tensor = *entry.tensor;
  const c10::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  const uint64_t head = (entry.is_global ? kTensorWord : kPlainTensorWord) |
                        static_cast<uint64_t>(tensor.scalar_type()) << 8 |
                        static_cast<uint64_t>(impl->is_wrapped_number()) << 16 |
                        static_cast<uint64_t>(is_free(entry)) << 17 |
                        static_cast<uint64_t>(tensor.dim()) << 24;
  const Layout layout = layout_in_call(entry);
  key.push_back(
      head | (entry.is_global ? static_cast<uint64_t>(layout.id()) << 32 : 0));
  for (int64_t size : impl->sizes()) {
    key.push_back(static_cast<uint64_t>(size));
  }
  for (int64_t stride : impl->strides()) {
    key.push_back(static_cast<uint64_t>(stride));
  }
}

void add_value_words(CallKey& key, const c10::IValue& value) {
  if (value.isNone()) {
    key.push_back(kNoneWord);
  } else if (value.isInt()) {
    key.push_back(kIntWord);
    key.push_back(static_cast<uint64_t>(value.toInt()));
  } else if (value.isBool()) {
    key.push_back(kBoolWord | static_cast<uint64_t>(value.toBool()) << 8);
  } else if (value.isIntList()) {
    const auto list = value.toIntList();
    key.push_back(kListWord | list.size() << 8);
    for (int64_t element : list) {
      key.push_back(static_cast<uint64_t>(element));
    }
  } else if (value.isString()) {
    key.push_back(kStringWord);
    key.push_back(std::hash<std::string_view>()(value.toStringView()));
  } else if (value.isList()) {
    const auto list = value.toListRef();
    key.push_back(kListWord | list.size() << 8);
    for (const c10::IValue& element : list) {
      add_value_words(key, element);
    }
  } else if (value.isDouble()) {
    key.push_back(kDoubleWord);
  } else {
    key.push_back(kOtherWord);
  }
}

uint64_t number_word(const c10::IValue& value) {
  return value.isNone()     ? kNoneWord
         : value.isInt()    ? kIntWord
         : value.isBool()   ? kBoolWord
         : value.isDouble() ? kDoubleWord
                            : kComplexWord;
}

TensorInfo info_of(const CallTensors::Entry& entry, bool is_unbounded) {
  const at::Tensor& tensor = *entry.tensor;
  TensorInfo info;
  info.layout = layout_in_call(entry);
  info.sizes = tensor.sizes().vec();
  info.strides = tensor.strides().vec();
  info.itemsize = static_cast<int>(tensor.itemsize());
  info.dtype = dtype_text(tensor.scalar_type());
  info.is_blank = is_free(entry);
  info.is_unbounded = is_unbounded;
  info.is_summable = tensor.is_floating_point() || tensor.is_complex();
  return info;
}

Arg value_arg(const c10::IValue& value) {
  Arg arg;
  if (value.isNone()) {
    arg.kind = ArgKind::kNone;
  } else if (value.isInt()) {
    arg.kind = ArgKind::kInt;
    arg.integer = value.toInt();
  } else if (value.isBool()) {
    arg.kind = ArgKind::kBool;
    arg.integer = value.toBool();
  } else if (value.isDouble()) {
    arg.kind = ArgKind::kDouble;
    arg.number = value.toDouble();
  } else if (value.isComplexDouble()) {
    arg.kind = ArgKind::kDouble;
  } else if (value.isString()) {
    arg.kind = ArgKind::kString;
    arg.text = value.toStringRef();
  } else if (value.isIntList()) {
    arg.kind = ArgKind::kIntList;
    arg.ints = value.toIntVector();
  } else if (value.isBoolList()) {
    arg.kind = ArgKind::kIntList;
    for (bool element : value.toBoolList()) {
      arg.ints.push_back(element);
    }
  } else {
    arg.kind = ArgKind::kOther;
  }
  return arg;
}

}  // namespace

CallKey key_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors,
    UnboundedNumbers unbounded) {
  CallKey key;
  key.push_back(
      static_cast<uint64_t>(c10::get_default_dtype_as_scalartype()) |
      static_cast<uint64_t>(at::globalContext().deterministicAlgorithms())
          << 8);
  size_t next = 0;
  for (size_t i = 0; i < args.size(); ++i) {
    const c10::IValue& value = args[i];
    switch (op.params[i]) {
      case Op::ParamKind::kTensor:
        if (next < tensors.entries.size() &&
            tensors.entries[next].arg == static_cast<int>(i)) {
          add_tensor_words(key, tensors.entries[next++]);
        } else {
          key.push_back(kNoneWord);
        }
        break;
      case Op::ParamKind::kTensorList:
      case Op::ParamKind::kOptionalTensorList: {
        if (!value.isList()) {
          key.push_back(kNoneWord);
          break;
        }
        const auto list = value.toListRef();
        key.push_back(kListWord | list.size() << 8);
        for (const c10::IValue& element : list) {
          if (element.isTensor() && element.toTensor().defined()) {
            add_tensor_words(key, tensors.entries[next++]);
          } else {
            key.push_back(kNoneWord);
          }
        }
        break;
      }
      case Op::ParamKind::kNumber:
        key.push_back(number_word(value));
        break;
      case Op::ParamKind::kDouble:
        key.push_back(value.isNone() ? kNoneWord : kDoubleWord);
        break;
      case Op::ParamKind::kValue:
        add_value_words(key, value);
        break;
      case Op::ParamKind::kDevice:
      case Op::ParamKind::kIgnored:
        break;
    }
  }
  if (unbounded != 0) [[unlikely]] {
    key.push_back(unbounded);
  }
  return key;
}

OpCall call_of(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors,
    UnboundedNumbers unbounded) {
  OpCall call;
  call.schema = &op.schema;
  call.has_unbounded_number = unbounded & 1;
  size_t next = 0;
  const auto next_tensor = [&] {
    const size_t i = next++;
    return info_of(tensors.entries[i], is_unbounded(unbounded, i));
  };
  for (size_t i = 0; i < args.size(); ++i) {
    const c10::IValue& value = args[i];
    Arg arg;
    switch (op.params[i]) {
      case Op::ParamKind::kTensor:
        if (next < tensors.entries.size() &&
            tensors.entries[next].arg == static_cast<int>(i)) {
          arg.kind = ArgKind::kTensor;
          arg.tensors.push_back(next_tensor());
        }
        break;
      case Op::ParamKind::kTensorList:
      case Op::ParamKind::kOptionalTensorList:
        if (value.isList()) {
          arg.kind = ArgKind::kTensorList;
          for (const c10::IValue& element : value.toListRef()) {
            const bool there =
                element.isTensor() && element.toTensor().defined();
            arg.present.push_back(there);
            if (there) {
              arg.tensors.push_back(next_tensor());
            }
          }
        }
        break;
      case Op::ParamKind::kDevice:
      case Op::ParamKind::kIgnored:
        arg.kind = value.isNone() ? ArgKind::kNone : ArgKind::kOther;
        break;
      default:
        arg = value_arg(value);
        break;
    }
    call.args.push_back(std::move(arg));
  }
  return call;
}

}  // namespace torch_mesh

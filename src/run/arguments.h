// arguments.h: the arguments of a call, with other tensors in place of its own.

#pragma once

#include "run/op.h"

namespace torch_mesh {

// Pushes the arguments of a call onto `to`.
//   tensor_for(tensor, param, n)  stands for the defined tensor `tensor`, the
//                                 n-th of the call, in parameter `param`
//   device                        stands for the mesh device
template <typename TensorFor>
void push_arguments(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    c10::Device device,
    Stack& to,
    const TensorFor& tensor_for) {
  size_t n = 0;
  auto list_for = [&]<typename Element>(
                      const c10::IValue& value, size_t param, Element none) {
    c10::List<Element> list;
    for (const c10::IValue& element : value.toListRef()) {
      if (element.isTensor() && element.toTensor().defined()) {
        list.push_back(tensor_for(element.toTensor(), param, n++));
      } else {
        list.push_back(none);
      }
    }
    to.emplace_back(std::move(list));
  };
  for (size_t p = 0; p < args.size(); ++p) {
    const c10::IValue& value = args[p];
    const Op::ParamKind kind = op.params[p];
    if (kind == Op::ParamKind::kTensor && value.isTensor() &&
        value.toTensor().defined()) {
      to.emplace_back(tensor_for(value.toTensor(), p, n++));
    } else if (kind == Op::ParamKind::kTensorList && value.isList()) {
      list_for(value, p, at::Tensor());
    } else if (kind == Op::ParamKind::kOptionalTensorList && value.isList()) {
      list_for(value, p, std::optional<at::Tensor>());
    } else if (kind == Op::ParamKind::kDevice && value.isDevice() &&
               value.toDevice().is_privateuseone()) {
      to.emplace_back(device);
    } else {
      to.push_back(value);
    }
  }
}

}  // namespace torch_mesh

// wants_sums.cpp: the numbers of a call, as far as the host knows them.

#include "run/wants_sums.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <c10/core/Scalar.h>

#include "shard/local_ops.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

bool wants_sums(const c10::Scalar& number, bool divides) {
  if (number.isIntegral(/*includeBool=*/true)) {
    return divides && number.toLong() == 0;
  }
  if (number.isComplex()) {
    const c10::complex<double> value = number.toComplexDouble();
    return !std::isfinite(value.real()) || !std::isfinite(value.imag()) ||
           (divides && value == c10::complex<double>(0));
  }
  return !std::isfinite(number.toDouble()) ||
         (divides && number.toDouble() == 0);
}

// The number that a tensor without dims is; nothing if the host would have to
// wait for it.
std::optional<c10::Scalar> number_of(const CallTensors::Entry& entry) {
  const at::Tensor& tensor = *entry.tensor;
  const LocalOps local;
  if (!entry.is_global) {
    return tensor.is_cpu() ? std::optional(tensor.item()) : std::nullopt;
  }
  const Shards* settled = settled_shards(tensor);
  return settled && settled->any().local().is_cpu()
             ? std::optional(settled->any().local().item())
             : std::nullopt;
}

}  // namespace

bool wants_sums(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors) {
  const auto is_pending = [](const CallTensors::Entry& entry) {
    return entry.is_global && layout_in_call(entry).has_partial();
  };
  if (!std::ranges::any_of(tensors.entries, is_pending)) {
    return false;
  }
  for (size_t i = 0; i < args.size(); ++i) {
    const bool is_number = op.params[i] == Op::ParamKind::kNumber ||
                           op.params[i] == Op::ParamKind::kDouble;
    if (is_number && args[i].isScalar() &&
        wants_sums(args[i].toScalar(), op.divides)) {
      return true;
    }
  }
  for (const CallTensors::Entry& entry : tensors.entries) {
    if (entry.tensor->dim() == 0 && !is_pending(entry) && !entry.is_written) {
      const std::optional<c10::Scalar> number = number_of(entry);
      if (number && wants_sums(*number, op.divides)) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace torch_mesh

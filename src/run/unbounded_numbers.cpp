// unbounded_numbers.cpp: the numbers of a call, as far as the host knows them.

#include "run/unbounded_numbers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include <c10/core/Scalar.h>

#include "shard/local_ops.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

constexpr size_t kLastBit = 63;

// The largest finite number of a dtype.
double max_of(c10::ScalarType dtype) {
  switch (c10::toRealValueType(dtype)) {
    case at::kHalf:
      return std::numeric_limits<c10::Half>::max();
    case at::kBFloat16:
      return std::numeric_limits<c10::BFloat16>::max();
    case at::kFloat:
      return std::numeric_limits<float>::max();
    default:
      return std::numeric_limits<double>::max();
  }
}

// Not a NaN: of a part and of the sum it makes the same.
bool is_unbounded(const c10::Scalar& number, double max, bool divides) {
  const double size = std::abs(number.toComplexDouble());
  return size > max || (divides && 1 / size > max);
}

// The number that a tensor of one element is; nothing if the host would have to
// wait for it, or devices would have to communicate: one that is cut has it on
// one device alone.
std::optional<c10::Scalar> number_of(const CallTensors::Entry& entry) {
  const LocalOps local;
  if (!entry.is_global) {
    return entry.tensor->is_cpu() ? std::optional(entry.tensor->item())
                                  : std::nullopt;
  }
  const Shards* settled = settled_shards(*entry.tensor);
  return settled && layout_in_call(entry).is_replicated() &&
                 settled->any().local().is_cpu()
             ? std::optional(settled->any().local().item())
             : std::nullopt;
}

bool is_pending(const CallTensors::Entry& entry) {
  return entry.is_global && layout_in_call(entry).has_partial();
}

}  // namespace

UnboundedNumbers unbounded_numbers(
    const Op& op,
    c10::ArrayRef<c10::IValue> args,
    const CallTensors& tensors) {
  const auto pending = std::ranges::find_if(tensors.entries, is_pending);
  if (pending == tensors.entries.end()) {
    return 0;
  }
  const double max = max_of(pending->tensor->scalar_type());
  UnboundedNumbers found = 0;
  for (size_t i = 0; i < args.size(); ++i) {
    const bool is_number = op.params[i] == Op::ParamKind::kNumber ||
                           op.params[i] == Op::ParamKind::kDouble;
    if (is_number && args[i].isScalar() &&
        is_unbounded(args[i].toScalar(), max, op.divides)) {
      found |= 1;
    }
  }
  if (tensors.entries.size() == 1) {
    return found;  // the sum itself
  }
  for (size_t i = 0; i < tensors.entries.size(); ++i) {
    const CallTensors::Entry& entry = tensors.entries[i];
    if (entry.tensor->numel() == 1) {
      const std::optional<c10::Scalar> number = number_of(entry);
      if (!number || is_unbounded(*number, max, op.divides)) {
        found |= UnboundedNumbers{1} << std::min(i + 1, kLastBit);
      }
    }
  }
  return found;
}

bool is_unbounded(UnboundedNumbers numbers, size_t tensor) {
  return numbers >> std::min(tensor + 1, kLastBit) & 1;
}

}  // namespace torch_mesh

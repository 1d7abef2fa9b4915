// overlaps.cpp: storages are told apart first; only shared ones are looked
// into.

#include "run/overlaps.h"

#include <algorithm>
#include <bit>
#include <unordered_map>

namespace torch_mesh {
namespace {

const void* storage_of(const at::Tensor& tensor) {
  const at::TensorImpl* impl = tensor.unsafeGetTensorImpl();
  return impl->has_storage() ? impl->unsafe_storage().unsafeGetStorageImpl()
                             : nullptr;
}

// A set of addresses, of at most `most` elements.
class Addresses {
 public:
  explicit Addresses(size_t most)
      : bits_(std::bit_width(2 * most + 1)), table_(size_t{1} << bits_) {}

  bool has(const void* address) const { return *find(address) != nullptr; }

  // False if it is there already.
  bool add(const void* address) {
    const void** slot = const_cast<const void**>(find(address));
    const bool is_new = *slot == nullptr;
    *slot = address;
    return is_new;
  }

 private:
  const void* const* find(const void* address) const {
    constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;
    size_t i = (reinterpret_cast<uintptr_t>(address) * kGolden) >> (64 - bits_);
    while (table_[i] && table_[i] != address) {
      i = (i + 1) & (table_.size() - 1);
    }
    return &table_[i];
  }

  int bits_;
  std::vector<const void*> table_;
};

// Whether a storage that is written occurs more than once.
bool any_shared(const std::vector<ListOfCall>& lists) {
  size_t num_written = 0;
  for (const ListOfCall& list : lists) {
    num_written += list.is_written ? list.tensors->size() : 0;
  }
  if (num_written == 0) {
    return false;
  }
  Addresses written(num_written);
  for (const ListOfCall& list : lists) {
    for (const at::Tensor& tensor : *list.tensors) {
      const void* storage = list.is_written ? storage_of(tensor) : nullptr;
      if (storage && !written.add(storage)) {
        return true;
      }
    }
  }
  for (const ListOfCall& list : lists) {
    for (const at::Tensor& tensor : *list.tensors) {
      const void* storage = list.is_written ? nullptr : storage_of(tensor);
      if (storage && written.has(storage)) {
        return true;
      }
    }
  }
  return false;
}

// Bytes of a storage, from the first to behind the last.
struct Span {
  int64_t begin = 0;
  int64_t end = 0;

  bool meets(const Span& other) const {
    return std::max(begin, other.begin) < std::min(end, other.end);
  }
  void take_in(const Span& other) {
    if (begin == end) {
      *this = other;
    } else if (other.begin != other.end) {
      begin = std::min(begin, other.begin);
      end = std::max(end, other.end);
    }
  }
};

Span span_of(const at::Tensor& tensor) {
  if (tensor.numel() == 0) {
    return {};
  }
  int64_t last = tensor.storage_offset();
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    last += (tensor.size(d) - 1) * tensor.stride(d);
  }
  const auto itemsize = static_cast<int64_t>(tensor.itemsize());
  return {tensor.storage_offset() * itemsize, (last + 1) * itemsize};
}

// Whether both are the same elements in the same order.
bool are_one_place(const at::Tensor& a, const at::Tensor& b) {
  if (storage_of(a) != storage_of(b) ||
      a.storage_offset() != b.storage_offset() || a.sizes() != b.sizes() ||
      a.scalar_type() != b.scalar_type()) {
    return false;
  }
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) {
      return false;
    }
  }
  return true;
}

// What earlier tensors of a call read and wrote in a storage.
struct Used {
  Span read;
  Span written;
};

}  // namespace

bool may_overlap(const std::vector<ListOfCall>& lists) {
  if (!any_shared(lists)) {
    return false;
  }
  std::unordered_map<const void*, Used> used;
  size_t size = 0;
  for (const ListOfCall& list : lists) {
    size = std::max(size, list.tensors->size());
  }
  for (size_t e = 0; e < size; ++e) {
    for (const ListOfCall& list : lists) {
      if (e >= list.tensors->size() || !storage_of((*list.tensors)[e])) {
        continue;
      }
      const at::Tensor& tensor = (*list.tensors)[e];
      const Span span = span_of(tensor);
      Used& before = used[storage_of(tensor)];
      if (span.meets(before.written) ||
          (list.is_written && span.meets(before.read))) {
        return true;
      }
      (list.is_written ? before.written : before.read).take_in(span);
    }
  }
  return false;
}

void unite_places(const Op& op, Stack& local) {
  const size_t base = local.size() - op.params.size();
  auto tensor_at = [&](size_t p) -> const at::Tensor* {
    const c10::IValue& value = local[base + p];
    return value.isTensor() && value.toTensor().defined() ? &value.toTensor()
                                                          : nullptr;
  };
  for (size_t w = 0; w < op.params.size(); ++w) {
    const at::Tensor* written =
        op.schema.params[w].is_written ? tensor_at(w) : nullptr;
    for (size_t p = 0; written && p < op.params.size(); ++p) {
      const at::Tensor* other = p == w ? nullptr : tensor_at(p);
      if (other && are_one_place(*other, *written)) {
        local[base + p] = *written;
      }
    }
  }
}

}  // namespace torch_mesh

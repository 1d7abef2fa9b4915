// means.h: what means, norms and losses over sharded dims share.
//
// Their programs use global numbers of elements, so a mean over a sharded dim
// is sum / count and never a mean of means. In half precision they compute in
// float32 and round their results once, as torch's own kernels do: a sum of
// float16, or a square, may overflow where the mean or the norm does not.

#pragma once

#include <vector>

#include <ATen/OpMathType.h>
#include <ATen/core/Tensor.h>

namespace torch_mesh::programs {

// In the type that a program computes in; itself where that is its own.
inline at::Tensor wide(const at::Tensor& t) {
  return t.to(at::toOpMathType(t.scalar_type()));
}

inline bool is_half(const at::Tensor& t) {
  return at::toOpMathType(t.scalar_type()) != t.scalar_type();
}

inline int64_t count_of(
    const at::Tensor& self,
    const std::vector<int64_t>& dims) {
  int64_t count = 1;
  for (int64_t d : dims) {
    count *= self.size(d);
  }
  return count;
}

inline std::vector<int64_t> all_but(const at::Tensor& input, int64_t dim) {
  std::vector<int64_t> dims;
  for (int64_t d = 0; d < input.dim(); ++d) {
    if (d != dim) {
      dims.push_back(d);
    }
  }
  return dims;
}

}  // namespace torch_mesh::programs

// grouped_mm.cpp: products of groups of rows with a matrix each, as layers with
// experts have them: a device multiplies what it holds of each group.
//
//   self [m, k]      mat2 [g, k, n]   groups of rows      -> [m, n]
//   self [m, k]      mat2 [k, n]      groups of what is summed -> [g, m, n]
//   self [g, m, k]   mat2 [k, n]      groups of columns   -> [m, n]
//
// `offs` says where the groups end in the whole. `begin` is where a device's
// part of the grouped dim begins, `first` the number of its first matrix.

#include <algorithm>
#include <functional>

#include <ATen/Functions.h>
#include <torch/library.h>

#include "program/programs.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

// Calls with the number of a group, and the range of a part of the grouped dim
// that is its.
void for_each_group(
    const Tensor& offs,
    int64_t begin,
    int64_t length,
    const std::function<void(int64_t, int64_t, int64_t)>& call) {
  const Tensor plain = offs.to(at::kCPU, at::kLong).contiguous();
  const auto* ends = plain.const_data_ptr<int64_t>();
  int64_t from = 0;
  for (int64_t g = 0; g < plain.numel(); ++g) {
    const int64_t first = std::clamp<int64_t>(from - begin, 0, length);
    const int64_t last = std::clamp<int64_t>(ends[g] - begin, first, length);
    call(g, first, last - first);
    from = ends[g];
  }
}

Tensor multiply_part(
    const Tensor& self,
    const Tensor& mat2,
    const Tensor& offs,
    int64_t begin,
    int64_t first) {
  if (self.dim() == 2 && mat2.dim() == 2) {
    const Tensor result =
        at::zeros({offs.size(0), self.size(0), mat2.size(1)}, self.options());
    for_each_group(
        offs, begin, self.size(1), [&](int64_t g, int64_t at, int64_t length) {
          Tensor part = result[g];
          at::mm_out(
              part, self.narrow(1, at, length), mat2.narrow(0, at, length));
        });
    return result;
  }
  const bool has_rows = self.dim() == 2;
  const Tensor& matrices = has_rows ? mat2 : self;
  const Tensor result =
      at::zeros({self.size(-2), mat2.size(-1)}, self.options());
  const int64_t dim = has_rows ? 0 : 1;
  for_each_group(
      offs,
      begin,
      result.size(dim),
      [&](int64_t g, int64_t at, int64_t length) {
        if (g < first || g >= first + matrices.size(0) || length == 0) {
          return;
        }
        const Tensor matrix = matrices[g - first];
        Tensor part = result.narrow(dim, at, length);
        if (has_rows) {
          at::mm_out(part, self.narrow(0, at, length), matrix);
        } else {
          part.copy_(at::mm(matrix, mat2.narrow(1, at, length)));
        }
      });
  return result;
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def(
      "grouped_mm(Tensor self, Tensor mat2, Tensor offs, int begin, "
      "int first) -> Tensor");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("grouped_mm", torch::dispatch(key, TORCH_FN(multiply_part)));
  }
}

}  // namespace

bool grouped_mm(const CallArgs& args) {
  static const Op& on_parts = op_named("torch_mesh::grouped_mm", "");
  const Tensor self = args.tensor("self");
  const auto offs = args.optional_tensor("offs");
  const auto bias = args.optional_tensor("bias");
  TORCH_CHECK(!bias, "Bias not supported yet");
  Tensor result;
  if (offs) {
    Stack call{self, args["mat2"], *offs, int64_t{0}, int64_t{0}};
    run_op(on_parts, call);
    result = call[0].toTensor();
  } else {
    result = at::bmm(self, args.tensor("mat2"));
  }
  const auto dtype = args["out_dtype"].toOptional<c10::ScalarType>();
  return args.give(dtype ? result.to(*dtype) : result);
}

}  // namespace torch_mesh::programs

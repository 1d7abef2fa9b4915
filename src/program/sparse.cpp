// sparse.cpp: a constant that is sparse, such as the graph of a network, stays
// a plain tensor; its products with global tensors are global.
//
// torch chooses these kernels by the kinds of all arguments: one is sparse, one
// on the mesh.

#include "program/sparse.h"

#include <memory>
#include <mutex>
#include <vector>

#include <ATen/Functions.h>
#include <torch/library.h>

#include "dispatch/ops.h"
#include "program/programs.h"
#include "run/other_kinds.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"
#include "trace/counters.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

// The part of a matrix with these columns, times the rows of `dense`. `begin`:
// of the rows that this device holds among `size`.
Tensor multiply_part(
    const Tensor& indices,
    const Tensor& values,
    const Tensor& dense,
    int64_t rows,
    int64_t begin,
    int64_t size) {
  const int64_t length = dense.size(0);
  Tensor places = indices;
  Tensor numbers = values;
  if (length != size) {
    const Tensor columns = indices[1];
    const Tensor mine =
        at::nonzero(
            at::logical_and(
                at::ge(columns, begin), at::lt(columns, begin + length)))
            .squeeze(1);
    places = indices.index_select(1, mine);
    places[1].sub_(begin);
    numbers = values.index_select(0, mine);
  }
  return at::mm(
      at::_sparse_coo_tensor_unsafe(
          places,
          numbers,
          {rows, length},
          numbers.options().layout(at::kSparse),
          /*is_coalesced=*/true),
      dense);
}

bool is_matrix(const Tensor& sparse) {
  const bool has_layout = sparse.layout() == at::kSparse
                              ? sparse.dense_dim() == 0
                              : sparse.layout() == at::kSparseCsr ||
                                    sparse.layout() == at::kSparseCsc;
  return has_layout && sparse.dim() == 2 && !is_global(sparse);
}

void refuse_sparse(const char* op) {
  try {
    refuse(op, OtherKind::kSparse);
  } catch (const CoreError& error) {
    rethrow_for_torch(error);
  }
}

// sparse [m, k] times dense [k, n]
Tensor multiply(const char* name, const Tensor& sparse, const Tensor& dense) {
  static const Op& on_parts = op_named("torch_mesh::sparse_mm", "");
  if (!is_matrix(sparse) || !is_global(dense)) {
    refuse_sparse(name);
  }
  if (dense.dim() != 2 || dense.size(0) != sparse.size(1) ||
      dense.scalar_type() != sparse.scalar_type()) {
    // For plain torch's words.
    at::mm(
        sparse,
        at::zeros(
            dense.sizes(),
            sparse.options().layout(at::kStrided).dtype(dense.scalar_type())));
  }
  const LocalOps local;
  const Tensor coo =
      (sparse.layout() == at::kSparse ? sparse : sparse.to_sparse()).coalesce();
  Stack call{coo._indices(),
             coo._values(),
             dense,
             sparse.size(0),
             int64_t{0},
             sparse.size(1)};
  run_op(on_parts, call);
  return call[0].toTensor();
}

Tensor mm(const Tensor& self, const Tensor& mat2) {
  return is_global(mat2)
             ? multiply("aten::mm", self, mat2)
             : multiply("aten::mm", mat2.t(), self.t()).t().contiguous();
}

Tensor mv(const Tensor& self, const Tensor& vec) {
  TORCH_CHECK(
      self.dim() == 2 && vec.dim() == 1,
      "vector + matrix @ vector expected, got 1, ",
      self.dim(),
      ", ",
      vec.dim());
  return multiply("aten::mv", self, vec.unsqueeze(1)).squeeze(1);
}

Tensor addmm(
    const Tensor& self,
    const Tensor& mat1,
    const Tensor& mat2,
    const c10::Scalar& beta,
    const c10::Scalar& alpha) {
  Tensor product = is_global(mat2)
                       ? multiply("aten::addmm", mat1, mat2)
                       : multiply("aten::addmm", mat2.t(), mat1.t()).t();
  if (!alpha.equal(1)) {
    product = at::mul(product, alpha);
  }
  if (beta.equal(0)) {
    return product.contiguous();
  }
  return at::add(beta.equal(1) ? self : at::mul(self, beta), product)
      .contiguous();
}

void say_that_gradients_are_dense() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (log_level() >= 1) {
      log_line("embedding with sparse=True: on the mesh the gradient is dense");
    }
  });
}

void refuse_boxed(const c10::OperatorHandle& op, Stack*) {
  refuse_sparse(op.schema().name().c_str());
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def(
      "sparse_mm(Tensor indices, Tensor values, Tensor dense, int rows, "
      "int begin, int size) -> Tensor");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("sparse_mm", torch::dispatch(key, TORCH_FN(multiply_part)));
  }
}

}  // namespace

void register_sparse_products() {
  // Registrations live as long as the process.
  static auto& registered = *new std::vector<std::unique_ptr<torch::Library>>;
  for (const auto key : {c10::DispatchKey::SparsePrivateUse1,
                         c10::DispatchKey::SparseCsrPrivateUse1}) {
    auto& products = registered.emplace_back(
        std::make_unique<torch::Library>(
            torch::Library::IMPL, "aten", key, __FILE__, __LINE__));
    products->impl("mm", mm);
    products->impl("mv", mv);
    products->impl("addmm", addmm);
    // Composed of others, so that the fallback that refuses misses it.
    products->impl(
        "_sparse_compressed_tensor_unsafe",
        torch::CppFunction::makeFromBoxedFunction<&refuse_boxed>());
  }
}

bool embedding_sparse_backward(const CallArgs& args) {
  say_that_gradients_are_dense();
  return args.give(
      at::embedding_dense_backward(
          args.tensor("grad"),
          args.tensor("indices"),
          args["num_weights"].toInt(),
          args["padding_idx"].toInt(),
          args["scale_grad_by_freq"].toBool()));
}

// Asks for a dense gradient, and goes on as with any op.
bool embedding_bag_backward(const CallArgs& args) {
  if (args["sparse"].toBool()) {
    say_that_gradients_are_dense();
    args["sparse"] = false;
  }
  return false;
}

}  // namespace torch_mesh::programs

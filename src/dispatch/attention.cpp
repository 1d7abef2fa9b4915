// attention.cpp: makes one mask of two.

#include "dispatch/attention.h"

#include <limits>

#include <ATen/Functions.h>
#include <ATen/ops/scaled_dot_product_attention_native.h>

namespace torch_mesh {

at::Tensor scaled_dot_product_attention(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& value,
    const std::optional<at::Tensor>& mask,
    double dropout,
    bool is_causal,
    std::optional<double> scale,
    bool enable_gqa) {
  std::optional<at::Tensor> both = mask;
  if (is_causal && mask && mask->defined() && query.dim() > 1 &&
      key.dim() > 1) {
    const at::Tensor is_past = at::ones_symint(
                                   {query.sym_size(-2), key.sym_size(-2)},
                                   query.options().dtype(at::kBool))
                                   .tril();
    both = mask->scalar_type() == at::kBool
               ? mask->logical_and(is_past)
               : mask->masked_fill(
                     is_past.logical_not(),
                     -std::numeric_limits<double>::infinity());
    is_causal = false;
  }
  return at::native::scaled_dot_product_attention(
      query, key, value, both, dropout, is_causal, scale, enable_gqa);
}

}  // namespace torch_mesh

// attention.cpp: makes one mask of two, and takes the kernel that torch takes.

#include <limits>

#include <ATen/Functions.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_fused_sdp_choice_native.h>
#include <ATen/ops/scaled_dot_product_attention_native.h>
#include <torch/version.h>

#include <torch_mesh/tensor.h>

#include "program/plain_arguments.h"
#include "program/programs.h"
#include "shard/local_ops.h"

namespace torch_mesh::programs {
namespace {

constexpr int64_t kMath = 0;

// Torch's own choice where the devices are CPUs. The rules of the fused kernel
// speak of as many heads of keys as of queries.
int64_t choose_kernel(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& value,
    const std::optional<at::Tensor>& mask,
    double dropout,
    bool is_causal,
    std::optional<double> scale,
    bool enable_gqa) {
  auto is_on_cpus = [](const at::Tensor& t) {
    return is_global(t) &&
           torch_device(layout_of(t).mesh().devices()[0]).is_cpu();
  };
  if (!is_on_cpus(query) || !is_on_cpus(key) || !is_on_cpus(value) ||
      enable_gqa) {
    return kMath;
  }
  return at::native::_fused_sdp_choice_cpp(
      query, key, value, mask, dropout, is_causal, scale, enable_gqa);
}

// With an explicit mask and is_causal, both hold: so has it torch's fused
// kernel on the CPU to torch 2.13, while the composition that the mesh gets
// refuses the two.
at::Tensor attend(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& value,
    const std::optional<at::Tensor>& mask,
    double dropout,
    bool is_causal,
    std::optional<double> scale,
    bool enable_gqa) {
  // torch compares the devices of queries, keys and values.
  if (query.is_cpu() || key.is_cpu() || value.is_cpu() ||
      (mask && mask->is_cpu())) {
    if (const auto mesh =
            mesh_among({query, key, value, mask.value_or(at::Tensor())})) {
      std::optional<at::Tensor> over = mask;
      if (mask) {
        over = brought_over(*mask, *mesh);
      }
      return attend(
          brought_over(query, *mesh),
          brought_over(key, *mesh),
          brought_over(value, *mesh),
          over,
          dropout,
          is_causal,
          scale,
          enable_gqa);
    }
  }
  std::optional<at::Tensor> both = mask;
  // From 2.14 on torch refuses the two on all devices, and does so below.
  constexpr bool both_hold =
      TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 14;
  if (both_hold && is_causal && mask && mask->defined() && query.dim() > 1 &&
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

}  // namespace

bool scaled_dot_product_attention(const CallArgs& args) {
  return args.give(attend(
      args.tensor("query"),
      args.tensor("key"),
      args.tensor("value"),
      args.optional_tensor("attn_mask"),
      args["dropout_p"].toDouble(),
      args["is_causal"].toBool(),
      args["scale"].toOptional<double>(),
      args["enable_gqa"].toBool()));
}

}  // namespace torch_mesh::programs

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(
    _fused_sdp_choice_stub,
    &torch_mesh::programs::choose_kernel)
}  // namespace at::native

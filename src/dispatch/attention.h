// attention.h: the one composed op of torch that the mesh composes otherwise.

#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace torch_mesh {

// aten::scaled_dot_product_attention. With an explicit mask and is_causal, both
// hold: so has it torch's fused kernel on the CPU to torch 2.13, while the
// composition that the mesh gets refuses the two.
at::Tensor scaled_dot_product_attention(
    const at::Tensor& query,
    const at::Tensor& key,
    const at::Tensor& value,
    const std::optional<at::Tensor>& mask,
    double dropout,
    bool is_causal,
    std::optional<double> scale,
    bool enable_gqa);

}  // namespace torch_mesh

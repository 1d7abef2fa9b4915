// norms.cpp: norms over sharded dims, with the statistics of the whole.

#include <ATen/Functions.h>

#include "program/batch_norm.h"
#include "program/means.h"
#include "program/programs.h"
#include "run/stand_ins.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

Tensor per_channel(const Tensor& value, const Tensor& like) {
  std::vector<int64_t> sizes(like.dim(), 1);
  sizes[1] = value.numel();
  return at::reshape(value, sizes);
}

// The dtype of saved statistics and of the gradients of weights: a half input
// may go with float32 parameters.
c10::ScalarType dtype_of_statistics(
    const Tensor& input,
    std::initializer_list<std::optional<Tensor>> parameters) {
  for (const std::optional<Tensor>& parameter : parameters) {
    if (parameter) {
      return parameter->scalar_type();
    }
  }
  return input.scalar_type();
}

// running = (1 - momentum) * running + momentum * now, rounded once.
void move_running(const Tensor& running, const Tensor& now, double momentum) {
  if (is_half(running)) {
    running.copy_(at::add(at::mul(wide(running), 1 - momentum), now, momentum));
  } else {
    running.mul_(1 - momentum).add_(now, momentum);
  }
}

// A result of batch norm in the memory format that the CPU's kernel gives it,
// whatever order the program left it in.
Tensor in_format(const Tensor& result, at::MemoryFormat format) {
  const std::vector<int64_t> strides = strides_in(format, result.sizes());
  return result.strides() == c10::IntArrayRef(strides)
             ? result
             : result.new_empty_strided(result.sizes(), strides).copy_(result);
}

}  // namespace

// Batch norm with the statistics of the whole batch (what others call sync BN).
bool batch_norm(const CallArgs& args) {
  if (run_on_whole_batch(args)) {
    return true;
  }
  const c10::ScalarType dtype = args.tensor("input").scalar_type();
  const Tensor input = wide(args.tensor("input"));
  const auto weight = args.optional_tensor("weight");
  const auto bias = args.optional_tensor("bias");
  const auto running_mean = args.has("running_mean")
                                ? args.optional_tensor("running_mean")
                                : std::nullopt;
  const auto running_var = args.has("running_var")
                               ? args.optional_tensor("running_var")
                               : std::nullopt;
  const double momentum = args["momentum"].toDouble();
  const double eps = args["eps"].toDouble();
  const auto dims = all_but(input, /*dim=*/1);
  const double count = static_cast<double>(count_of(input, dims));
  const Tensor mean = at::div(at::sum(input, dims), count);
  Tensor centred = at::sub(input, per_channel(mean, input));
  const Tensor var = at::div(at::sum(at::mul(centred, centred), dims), count);
  // Torch's kernel reads the statistics back as it saves them.
  const c10::ScalarType saved = dtype_of_statistics(
      args.tensor("input"), {weight, bias, running_mean, running_var});
  const Tensor saved_mean = mean.to(saved);
  const Tensor saved_invstd = at::rsqrt(at::add(var, eps)).to(saved);
  if (is_half(saved_mean)) {
    centred = at::sub(input, per_channel(wide(saved_mean), input));
  }
  Tensor output = at::mul(centred, per_channel(wide(saved_invstd), input));
  if (weight) {
    output = at::mul(output, per_channel(*weight, input));
  }
  if (bias) {
    output = at::add(output, per_channel(*bias, input));
  }
  if (running_mean) {
    // Torch's kernel reads the mean of bfloat16, but not of float16, so here.
    const bool is_read_back = saved == at::kBFloat16;
    move_running(
        *running_mean, is_read_back ? wide(saved_mean) : mean, momentum);
  }
  if (running_var) {
    const Tensor unbiased = at::mul(var, count / std::max(count - 1, 1.0));
    move_running(*running_var, unbiased, momentum);
  }
  return args.give(
      in_format(
          output.to(dtype), format_of_batch_norm(args.tensor("input"), {})),
      saved_mean,
      saved_invstd);
}

// d input = w * invstd * (g - mean(g) - xhat * mean(g * xhat)); Ioffe and
// Szegedy 2015, section 3, with sums over the whole batch.
bool batch_norm_backward(const CallArgs& args) {
  if (run_on_whole_batch(args)) {
    return true;
  }
  const c10::ScalarType dtype = args.tensor("input").scalar_type();
  const Tensor grad = wide(args.tensor("grad_out"));
  const Tensor input = wide(args.tensor("input"));
  const auto weight = args.optional_tensor("weight");
  const Tensor mean = wide(args.tensor("save_mean"));
  const Tensor invstd = wide(args.tensor("save_invstd"));
  const auto mask = args["output_mask"].toBoolList();
  const auto dims = all_but(input, /*dim=*/1);
  const double count = static_cast<double>(count_of(input, dims));
  const Tensor normal = at::mul(
      at::sub(input, per_channel(mean, input)), per_channel(invstd, input));
  const Tensor grad_bias = at::sum(grad, dims);
  const Tensor grad_weight = at::sum(at::mul(grad, normal), dims);
  Tensor grad_input;
  if (mask[0]) {
    // The sums themselves are read, so that they are reduced once, for the
    // gradients of the weights too.
    const Tensor along_normal =
        at::mul(normal, per_channel(grad_weight, input));
    grad_input = at::sub(
        at::sub(grad, per_channel(grad_bias, input), 1 / count),
        along_normal,
        1 / count);
    Tensor scale = invstd;
    if (weight) {
      scale = at::mul(scale, *weight);
    }
    grad_input = in_format(
        at::mul(grad_input, per_channel(scale, input)).to(dtype),
        format_of_batch_norm(args.tensor("input"), args.tensor("grad_out")));
  }
  const c10::ScalarType saved = args.tensor("save_mean").scalar_type();
  return args.give(
      grad_input,
      mask[1] ? grad_weight.to(saved) : Tensor(),
      mask[2] ? grad_bias.to(saved) : Tensor());
}

// w = g * v / |v|, the norms being those of slices along `dim`. They are saved
// in the type that the kernel computes in.
bool weight_norm(const CallArgs& args) {
  const Tensor v = args.tensor("v");
  const Tensor g = args.tensor("g");
  const Tensor norms = at::sqrt(
      at::sum(at::square(wide(v)), all_but(v, args["dim"].toInt()), true));
  const Tensor w = at::mul(wide(v), at::div(wide(g), norms));
  return args.give(w.to(v.scalar_type()), norms);
}

// d g = sum(d w * v) / |v|, d v = g / |v| * (d w - v * d g / |v|)
bool weight_norm_backward(const CallArgs& args) {
  const Tensor v = wide(args.tensor("saved_v"));
  const Tensor grad = wide(args.tensor("grad_w"));
  const Tensor norms = wide(args.tensor("saved_norms"));
  const Tensor grad_g = at::div(
      at::sum(at::mul(grad, v), all_but(v, args["dim"].toInt()), true), norms);
  const Tensor grad_v = at::mul(
      at::div(wide(args.tensor("saved_g")), norms),
      at::sub(grad, at::mul(v, at::div(grad_g, norms))));
  return args.give(
      grad_v.to(args.tensor("saved_v").scalar_type()),
      grad_g.to(args.tensor("saved_g").scalar_type()));
}

}  // namespace torch_mesh::programs

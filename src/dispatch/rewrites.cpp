// rewrites.cpp: means, variances and losses over sharded dims.
//
// Each program uses global numbers of elements, so a mean over a sharded dim is
// sum / count and never a mean of means. In half precision it computes in
// float32 and rounds its results once, as torch's own kernels do: a sum of
// float16, or a square, may overflow where the mean or the norm does not.

#include "dispatch/rewrites.h"

#include <cmath>
#include <map>

#include <ATen/Functions.h>
#include <ATen/OpMathType.h>

#include "dispatch/batch_norm.h"
#include "dispatch/counts.h"
#include "dispatch/ctc_loss.h"
#include "dispatch/embedding_bag.h"
#include "dispatch/grouped_mm.h"
#include "dispatch/picks.h"
#include "dispatch/places.h"
#include "dispatch/program.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {
namespace {

using at::Tensor;

constexpr int64_t kNone = 0;
constexpr int64_t kMean = 1;
constexpr int64_t kSum = 2;

// In the type that a program computes in; itself where that is its own.
Tensor wide(const Tensor& t) { return t.to(at::toOpMathType(t.scalar_type())); }

bool is_half(const Tensor& t) {
  return at::toOpMathType(t.scalar_type()) != t.scalar_type();
}

std::vector<int64_t> dims_of(const ProgramArgs& args, const Tensor& self) {
  std::vector<int64_t> dims;
  if (args.has("dim")) {
    const c10::IValue& dim = args["dim"];
    if (dim.isInt()) {
      dims.push_back(dim.toInt());
    } else if (dim.isIntList()) {
      dims = dim.toIntVector();
    }
  }
  if (dims.empty()) {
    for (int64_t d = 0; d < self.dim(); ++d) {
      dims.push_back(d);
    }
  }
  return dims;
}

int64_t count_of(const Tensor& self, const std::vector<int64_t>& dims) {
  int64_t count = 1;
  for (int64_t d : dims) {
    count *= self.size(d);
  }
  return count;
}

bool keepdim_of(const ProgramArgs& args) {
  return args.has("keepdim") && args["keepdim"].toBool();
}

// mean(dim) = sum(dim) / count(dim)
void mean(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const Tensor self = args.tensor("self");
  const auto dims = dims_of(args, self);
  const auto dtype = args["dtype"].toOptional<c10::ScalarType>();
  const c10::ScalarType result = dtype.value_or(self.scalar_type());
  TORCH_CHECK(
      c10::isFloatingType(result) || c10::isComplexType(result),
      "mean(): could not infer output dtype. Input dtype must be either a "
      "floating point or complex dtype. Got: ",
      result,
      "\nHint: mean(dtype=torch.float32).");
  const Tensor sum =
      at::sum(self, dims, keepdim_of(args), at::toOpMathType(result));
  args.give({at::div(sum, count_of(self, dims)).to(result)});
}

struct Moments {
  Tensor var;
  Tensor mean;
  Tensor like;  // has the dtype of the results

  Tensor rounded_var() const {
    return var.to(c10::toRealValueType(like.scalar_type()));
  }
  Tensor rounded_deviation() const {
    return at::sqrt(var).to(c10::toRealValueType(like.scalar_type()));
  }
  Tensor rounded_mean() const { return mean.to(like.scalar_type()); }
};

// var(dim) = sum((x - mean(dim))^2) / (count(dim) - correction)
Moments moments(const ProgramArgs& args) {
  const Tensor like = args.tensor("self");
  TORCH_CHECK(
      like.is_floating_point() || like.is_complex(),
      "std and var only support floating point and complex dtypes");
  const Tensor self = wide(like);
  const auto dims = dims_of(args, self);
  double correction = 1;
  if (args.has("correction")) {
    const c10::IValue& value = args["correction"];
    correction = value.isNone() ? 1 : value.toScalar().toDouble();
  } else if (args.has("unbiased")) {
    correction = args["unbiased"].toBool() ? 1 : 0;
  }
  const double count = static_cast<double>(count_of(self, dims));
  Tensor mean = at::div(at::sum(self, dims, /*keepdim=*/true), count);
  const Tensor centred = at::sub(self, mean);
  const Tensor squares = at::mul(centred, at::conj_physical(centred));
  Tensor var = at::div(
      at::sum(squares, dims, keepdim_of(args)),
      std::max(count - correction, 0.0));
  if (!keepdim_of(args)) {
    mean = at::reshape(mean, var.sizes());
  }
  return {self.is_complex() ? at::real(var).contiguous() : var, mean, like};
}

void var(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  args.give({moments(args).rounded_var()});
}

void standard_deviation(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  args.give({moments(args).rounded_deviation()});
}

void var_mean(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const Moments m = moments(args);
  args.give({m.rounded_var(), m.rounded_mean()});
}

void std_mean(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const Moments m = moments(args);
  args.give({m.rounded_deviation(), m.rounded_mean()});
}

// all(dim): nowhere false; any(dim): somewhere true. Counts are summed.
Tensor number_of(const ProgramArgs& args, bool wanted) {
  const Tensor self = args.tensor("self");
  const Tensor hits = wanted ? at::ne(self, 0) : at::eq(self, 0);
  return at::sum(hits, dims_of(args, self), keepdim_of(args));
}

Tensor as_truth(const ProgramArgs& args, const Tensor& truth) {
  return args.tensor("self").scalar_type() == at::kByte ? truth.to(at::kByte)
                                                        : truth;
}

void all(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  args.give({as_truth(args, at::eq(number_of(args, false), 0))});
}

void any(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  args.give({as_truth(args, at::ne(number_of(args, true), 0))});
}

// squeeze(dim) = squeeze(those of global size 1): a shard of size 1 is no such
// dim.
void squeeze(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const Tensor self = args.tensor("self");
  std::vector<int64_t> dims = dims_of(args, self);
  std::erase_if(dims, [&](int64_t d) { return self.size(d) != 1; });
  args.give(
      {op.is_view ? at::squeeze(self, dims) : at::squeeze_copy(self, dims)});
}

// |x|_p = (sum |x|^p)^(1/p); for p = inf the largest, for 0 the number of
// elements that are not 0.
void vector_norm(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  Tensor self = args.tensor("self");
  TORCH_CHECK(
      self.is_floating_point() || self.is_complex(),
      "linalg.vector_norm: Expected a floating point or complex tensor as "
      "input. Got ",
      self.scalar_type());
  const auto dtype = args["dtype"].toOptional<c10::ScalarType>();
  if (dtype) {
    self = self.to(*dtype);
  }
  const double ord = args["ord"].toScalar().toDouble();
  const auto dims = dims_of(args, self);
  const bool keepdim = keepdim_of(args);
  const Tensor size = at::abs(wide(self));
  Tensor norm;
  if (ord == 2) {
    norm = at::sqrt(at::sum(at::mul(size, size), dims, keepdim));
  } else if (ord == 1) {
    norm = at::sum(size, dims, keepdim);
  } else if (ord == 0) {
    norm = at::sum(at::ne(size, 0), dims, keepdim, size.scalar_type());
  } else if (std::isinf(ord)) {
    norm =
        ord > 0 ? at::amax(size, dims, keepdim) : at::amin(size, dims, keepdim);
  } else {
    norm = at::pow(at::sum(at::pow(size, ord), dims, keepdim), 1 / ord);
  }
  args.give({norm.to(c10::toRealValueType(self.scalar_type()))});
}

// loss(mean) = loss(sum) / number of elements. A sum of float16 overflows where
// the mean does not, so there it is the mean of the elements' losses.
void mean_loss(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const int64_t count = args.tensor("self").numel();
  if (is_half(args.tensor("self"))) {
    args["reduction"] = kNone;
    op.handle.callBoxed(stack);
    stack.back() = at::mean(stack.back().toTensor());
    return;
  }
  args["reduction"] = kSum;
  op.handle.callBoxed(stack);
  const Tensor sum = stack.back().toTensor();
  stack.back() = at::div(sum, count);
}

// torch too reduces the losses of the elements here, which round and overflow
// in their own dtype.
void soft_margin_loss(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const bool is_mean = args["reduction"].toInt() == kMean;
  args["reduction"] = kNone;
  op.handle.callBoxed(stack);
  const Tensor losses = stack.back().toTensor();
  stack.back() = is_mean ? at::mean(losses) : at::sum(losses);
}

// The gradient of loss(mean) is that of loss(sum), of grad_output / count.
void mean_loss_backward(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const int64_t count = args.tensor("self").numel();
  args["reduction"] = kSum;
  args["grad_output"] = at::div(args.tensor("grad_output"), count);
  op.handle.callBoxed(stack);
}

// nll(mean) = nll(sum) / total weight
void nll_loss_forward(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  args["reduction"] = kSum;
  op.handle.callBoxed(stack);
  const Tensor total_weight = stack.back().toTensor();
  const Tensor sum = stack[stack.size() - 2].toTensor();
  stack[stack.size() - 2] = at::div(sum, total_weight);
}

Tensor per_channel(const Tensor& value, const Tensor& like) {
  std::vector<int64_t> sizes(like.dim(), 1);
  sizes[1] = value.numel();
  return at::reshape(value, sizes);
}

std::vector<int64_t> all_but(const Tensor& input, int64_t dim) {
  std::vector<int64_t> dims;
  for (int64_t d = 0; d < input.dim(); ++d) {
    if (d != dim) {
      dims.push_back(d);
    }
  }
  return dims;
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

// Batch norm with the statistics of the whole batch (what others call sync BN).
void batch_norm(const Op& op, Stack& stack) {
  if (run_on_whole_batch(op, stack)) {
    return;
  }
  const ProgramArgs args(op, stack);
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
  args.give(
      {in_format(
           output.to(dtype), format_of_batch_norm(args.tensor("input"), {})),
       saved_mean,
       saved_invstd});
}

// d input = w * invstd * (g - mean(g) - xhat * mean(g * xhat)); Ioffe and
// Szegedy 2015, section 3, with sums over the whole batch.
void batch_norm_backward(const Op& op, Stack& stack) {
  if (run_on_whole_batch(op, stack)) {
    return;
  }
  const ProgramArgs args(op, stack);
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
  args.give(
      {grad_input,
       mask[1] ? grad_weight.to(saved) : Tensor(),
       mask[2] ? grad_bias.to(saved) : Tensor()});
}

// w = g * v / |v|, the norms being those of slices along `dim`. They are saved
// in the type that the kernel computes in.
void weight_norm(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const Tensor v = args.tensor("v");
  const Tensor g = args.tensor("g");
  const Tensor norms = at::sqrt(
      at::sum(at::square(wide(v)), all_but(v, args["dim"].toInt()), true));
  const Tensor w = at::mul(wide(v), at::div(wide(g), norms));
  args.give({w.to(v.scalar_type()), norms});
}

// d g = sum(d w * v) / |v|, d v = g / |v| * (d w - v * d g / |v|)
void weight_norm_backward(const Op& op, Stack& stack) {
  const ProgramArgs args(op, stack);
  const Tensor v = wide(args.tensor("saved_v"));
  const Tensor grad = wide(args.tensor("grad_w"));
  const Tensor norms = wide(args.tensor("saved_norms"));
  const Tensor grad_g = at::div(
      at::sum(at::mul(grad, v), all_but(v, args["dim"].toInt()), true), norms);
  const Tensor grad_v = at::mul(
      at::div(wide(args.tensor("saved_g")), norms),
      at::sub(grad, at::mul(v, at::div(grad_g, norms))));
  args.give(
      {grad_v.to(args.tensor("saved_v").scalar_type()),
       grad_g.to(args.tensor("saved_g").scalar_type())});
}

const std::map<std::string, Rewrite>& table() {
  static const auto* table = new std::map<std::string, Rewrite>{
      {"aten::_native_batch_norm_legit", batch_norm},
      {"aten::_native_batch_norm_legit.no_stats", batch_norm},
      {"aten::_weight_norm_interface", weight_norm},
      {"aten::_weight_norm_interface_backward", weight_norm_backward},
      {"aten::all", all},
      {"aten::all.dim", all},
      {"aten::all.dims", all},
      {"aten::any", any},
      {"aten::any.dim", any},
      {"aten::any.dims", any},
      {"aten::binary_cross_entropy", mean_loss},
      {"aten::binary_cross_entropy_backward", mean_loss_backward},
      {"aten::huber_loss", mean_loss},
      {"aten::huber_loss_backward", mean_loss_backward},
      {"aten::linalg_vector_norm", vector_norm},
      {"aten::mean", mean},
      {"aten::mean.dim", mean},
      {"aten::mse_loss", mean_loss},
      {"aten::mse_loss_backward", mean_loss_backward},
      {"aten::native_batch_norm", batch_norm},
      {"aten::native_batch_norm_backward", batch_norm_backward},
      {"aten::nll_loss2d_forward", nll_loss_forward},
      {"aten::nll_loss_forward", nll_loss_forward},
      {"aten::squeeze", squeeze},
      {"aten::squeeze.dim", squeeze},
      {"aten::squeeze.dims", squeeze},
      {"aten::squeeze_copy", squeeze},
      {"aten::squeeze_copy.dim", squeeze},
      {"aten::squeeze_copy.dims", squeeze},
      {"aten::smooth_l1_loss", mean_loss},
      {"aten::smooth_l1_loss_backward", mean_loss_backward},
      {"aten::soft_margin_loss", soft_margin_loss},
      {"aten::soft_margin_loss_backward", mean_loss_backward},
      {"aten::std.correction", standard_deviation},
      {"aten::std_mean.correction", std_mean},
      {"aten::var.correction", var},
      {"aten::var_mean.correction", var_mean},
  };
  return *table;
}

}  // namespace

Rewrite rewrite_of(const Op& op) {
  auto found = table().find(op.schema.name);
  if (found != table().end()) {
    return found->second;
  }
  for (const auto find : {rewrite_of_pick,
                          rewrite_of_put,
                          rewrite_of_count,
                          rewrite_of_ctc_loss,
                          rewrite_of_embedding_bag,
                          rewrite_of_grouped_mm}) {
    if (const Rewrite rewrite = find(op)) {
      return rewrite;
    }
  }
  return nullptr;
}

}  // namespace torch_mesh

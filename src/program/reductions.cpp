// reductions.cpp: means, variances, norms and counts over sharded dims.

#include <cmath>

#include <ATen/Functions.h>

#include "program/means.h"
#include "program/programs.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

std::vector<int64_t> dims_of(const CallArgs& args, const Tensor& self) {
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

bool keepdim_of(const CallArgs& args) {
  return args.has("keepdim") && args["keepdim"].toBool();
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
Moments moments(const CallArgs& args) {
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

// all(dim): nowhere false; any(dim): somewhere true. Counts are summed.
Tensor number_of(const CallArgs& args, bool wanted) {
  const Tensor self = args.tensor("self");
  const Tensor hits = wanted ? at::ne(self, 0) : at::eq(self, 0);
  return at::sum(hits, dims_of(args, self), keepdim_of(args));
}

Tensor as_truth(const CallArgs& args, const Tensor& truth) {
  return args.tensor("self").scalar_type() == at::kByte ? truth.to(at::kByte)
                                                        : truth;
}

}  // namespace

// mean(dim) = sum(dim) / count(dim)
bool mean(const CallArgs& args) {
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
  return args.give(at::div(sum, count_of(self, dims)).to(result));
}

bool var(const CallArgs& args) {
  return args.give(moments(args).rounded_var());
}

bool standard_deviation(const CallArgs& args) {
  return args.give(moments(args).rounded_deviation());
}

bool var_mean(const CallArgs& args) {
  const Moments m = moments(args);
  return args.give(m.rounded_var(), m.rounded_mean());
}

bool std_mean(const CallArgs& args) {
  const Moments m = moments(args);
  return args.give(m.rounded_deviation(), m.rounded_mean());
}

bool all(const CallArgs& args) {
  return args.give(as_truth(args, at::eq(number_of(args, false), 0)));
}

bool any(const CallArgs& args) {
  return args.give(as_truth(args, at::ne(number_of(args, true), 0)));
}

// squeeze(dim) = squeeze(those of global size 1): a shard of size 1 is no such
// dim.
bool squeeze(const CallArgs& args) {
  const Tensor self = args.tensor("self");
  std::vector<int64_t> dims = dims_of(args, self);
  std::erase_if(dims, [&](int64_t d) { return self.size(d) != 1; });
  return args.give(
      args.op.is_view ? at::squeeze(self, dims) : at::squeeze_copy(self, dims));
}

// |x|_p = (sum |x|^p)^(1/p); for p = inf the largest, for 0 the number of
// elements that are not 0.
bool vector_norm(const CallArgs& args) {
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
  return args.give(norm.to(c10::toRealValueType(self.scalar_type())));
}

}  // namespace torch_mesh::programs

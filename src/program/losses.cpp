// losses.cpp: losses over sharded dims, whose mean is a sum over a count.

#include <ATen/Functions.h>

#include "program/means.h"
#include "program/programs.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

constexpr int64_t kNone = 0;
constexpr int64_t kMean = 1;
constexpr int64_t kSum = 2;

}  // namespace

// loss(mean) = loss(sum) / number of elements. A sum of float16 overflows where
// the mean does not, so there it is the mean of the elements' losses.
bool mean_loss(const CallArgs& args) {
  const int64_t count = args.tensor("self").numel();
  const bool is_narrow = is_half(args.tensor("self"));
  args["reduction"] = is_narrow ? kNone : kSum;
  args.give_op();
  const Tensor loss = args.result(0).toTensor();
  args.result(0) = is_narrow ? at::mean(loss) : at::div(loss, count);
  return true;
}

// torch too reduces the losses of the elements here, which round and overflow
// in their own dtype.
bool soft_margin_loss(const CallArgs& args) {
  const bool is_mean = args["reduction"].toInt() == kMean;
  args["reduction"] = kNone;
  args.give_op();
  const Tensor losses = args.result(0).toTensor();
  args.result(0) = is_mean ? at::mean(losses) : at::sum(losses);
  return true;
}

// The gradient of loss(mean) is that of loss(sum), of grad_output / count.
bool mean_loss_backward(const CallArgs& args) {
  const int64_t count = args.tensor("self").numel();
  args["reduction"] = kSum;
  args["grad_output"] = at::div(args.tensor("grad_output"), count);
  return args.give_op();
}

// nll(mean) = nll(sum) / total weight
bool nll_loss_forward(const CallArgs& args) {
  args["reduction"] = kSum;
  args.give_op();
  const Tensor sum = args.result(0).toTensor();
  args.result(0) = at::div(sum, args.result(1).toTensor());
  return true;
}

}  // namespace torch_mesh::programs

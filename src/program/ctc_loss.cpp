// ctc_loss.cpp: the loss of sequences without an alignment, for a sharded
// batch.
//
// Lengths become tensors and targets rows of equal length, so that every device
// can be given those of its part of the batch.
// torch saves log_alpha with room for the longest target of the batch. A
// device's part may lack that one: then its log_alpha gets the room.

#include <algorithm>

#include <ATen/Functions.h>
#include <torch/library.h>

#include "program/programs.h"
#include "tensor/global_tensor.h"

namespace torch_mesh::programs {
namespace {

using at::Tensor;

std::vector<int64_t> list_of(const Tensor& lengths) {
  const Tensor plain = lengths.to(at::kCPU, at::kLong).contiguous();
  const auto* first = plain.const_data_ptr<int64_t>();
  return {first, first + plain.numel()};
}

Tensor tensor_of(const c10::IValue& lengths) {
  if (lengths.isTensor()) {
    return lengths.toTensor();
  }
  const std::vector<int64_t> list = lengths.toIntVector();
  return at::tensor(list, at::dtype(at::kLong));
}

std::vector<int64_t> list_of(const c10::IValue& lengths) {
  if (!lengths.isTensor()) {
    return lengths.toIntVector();
  }
  const Tensor tensor = lengths.toTensor();
  return list_of(is_global(tensor) ? full_value(tensor) : tensor);
}

// `width`: of log_alpha.
std::tuple<Tensor, Tensor> ctc_loss_local(
    const Tensor& log_probs,
    const Tensor& targets,
    const Tensor& input_lengths,
    const Tensor& target_lengths,
    int64_t blank,
    bool zero_infinity,
    int64_t width) {
  auto [loss, log_alpha] = at::_ctc_loss(
      log_probs,
      targets,
      list_of(input_lengths),
      list_of(target_lengths),
      blank,
      zero_infinity);
  const int64_t missing = width - log_alpha.size(2);
  return {
      loss,
      missing == 0 ? log_alpha : at::constant_pad_nd(log_alpha, {0, missing})};
}

Tensor ctc_loss_backward_local(
    const Tensor& grad,
    const Tensor& log_probs,
    const Tensor& targets,
    const Tensor& input_lengths,
    const Tensor& target_lengths,
    const Tensor& loss,
    const Tensor& log_alpha,
    int64_t blank,
    bool zero_infinity) {
  const std::vector<int64_t> lengths = list_of(target_lengths);
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  return at::_ctc_loss_backward(
      grad,
      log_probs,
      targets,
      list_of(input_lengths),
      lengths,
      loss,
      log_alpha.narrow(2, 0, 2 * longest + 1).contiguous(),
      blank,
      zero_infinity);
}

TORCH_LIBRARY_FRAGMENT(torch_mesh, library) {
  library.def(
      "ctc_loss(Tensor log_probs, Tensor targets, Tensor input_lengths, "
      "Tensor target_lengths, int blank, bool zero_infinity, int width) "
      "-> (Tensor, Tensor)");
  library.def(
      "ctc_loss_backward(Tensor grad, Tensor log_probs, Tensor targets, "
      "Tensor input_lengths, Tensor target_lengths, Tensor loss, "
      "Tensor log_alpha, int blank, bool zero_infinity) -> Tensor");
  for (const auto key : {c10::DispatchKey::CPU, c10::DispatchKey::CUDA}) {
    library.impl("ctc_loss", torch::dispatch(key, TORCH_FN(ctc_loss_local)));
    library.impl(
        "ctc_loss_backward",
        torch::dispatch(key, TORCH_FN(ctc_loss_backward_local)));
  }
}

// Targets that stand one after the other, as rows of equal length.
Tensor rows_of(const Tensor& targets, const std::vector<int64_t>& lengths) {
  if (targets.dim() == 2) {
    return targets;
  }
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const auto n = static_cast<int64_t>(lengths.size());
  Tensor places = at::zeros({n, longest}, at::dtype(at::kLong));
  auto* place = places.mutable_data_ptr<int64_t>();
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    for (int64_t s = 0; s < length; ++s) {
      place[s] = begin + s;
    }
    place += longest;
    begin += length;
  }
  return at::index_select(targets, 0, places.reshape({-1})).view({n, longest});
}

}  // namespace

bool ctc_loss(const CallArgs& args) {
  static const Op& on_rows = op_named("torch_mesh::ctc_loss", "");
  const std::vector<int64_t> lengths = list_of(args["target_lengths"]);
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  Stack call{args["log_probs"],
             rows_of(args.tensor("targets"), lengths),
             tensor_of(args["input_lengths"]),
             tensor_of(args["target_lengths"]),
             args["blank"],
             args["zero_infinity"],
             2 * longest + 1};
  run_op(on_rows, call);
  return args.give(call[0], call[1]);
}

bool ctc_loss_backward(const CallArgs& args) {
  static const Op& on_rows = op_named("torch_mesh::ctc_loss_backward", "");
  const std::vector<int64_t> lengths = list_of(args["target_lengths"]);
  Stack call{args["grad"],
             args["log_probs"],
             rows_of(args.tensor("targets"), lengths),
             tensor_of(args["input_lengths"]),
             tensor_of(args["target_lengths"]),
             args["neg_log_likelihood"],
             args["log_alpha"],
             args["blank"],
             args["zero_infinity"]};
  run_op(on_rows, call);
  return args.give(call[0]);
}

}  // namespace torch_mesh::programs

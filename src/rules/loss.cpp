// loss.cpp: losses and their gradients.
//
// reduction is 0 (none), 1 (mean) or 2 (sum). A mean divides by a number of
// elements, which must be the global one: it is rewritten.

#include "rules/families.h"

namespace torch_mesh::rules {
namespace {

// Losses of an input and a target, element by element. `more` stands for
// further tensors. With `sums_losses` a sum is one of rounded losses, and so is
// rewritten too.
void add_elementwise_loss(
    RuleTable& table,
    const std::string& name,
    const std::string& more = "",
    bool sums_losses = false) {
  const std::string in = "x*, x*" + more;
  const std::string sum = sums_losses ? " -> . rewritten(x*) same" : " -> .";
  table.add(
      "aten::" + name,
      in + " -> x* when(reduction=0) | " + in + sum + " when(reduction=2) | " +
          in + " -> . rewritten(x*) same when(reduction=1)");
  // The incoming gradient is one number, or has the sizes of the loss.
  const std::string back = "_backward";
  table.add(
      "aten::" + name + back,
      "~x*, " + in + " -> x* linear(0) when(reduction!=1) | ~x*, " + in +
          " -> x* rewritten(x*) linear(0) when(reduction=1)");
}

// n places (with s* more of them), c classes. total_weight is 0 without a
// reduction.
void add_nll_loss(
    RuleTable& table,
    const std::string& name,
    const std::string& places) {
  const std::string self = places == "n" ? "n c" : "n c s*";
  const std::string in = self + ", " + places + ", c";
  const std::string none = " ^n" + std::string(places == "n" ? "" : " s*");
  const std::string rewritten =
      places == "n" ? "rewritten(n)" : "rewritten(n, s*)";
  table.add(
      "aten::" + name + "_forward",
      in + " -> " + places + ", ." + none + " whole(c) when(reduction=0) | " +
          in + " -> ., . whole(c) when(reduction=2) | " + in +
          " -> ., . whole(c) " + rewritten + " when(reduction=1)");
  // The total weight of the whole batch is an argument, so a mean passes.
  table.add(
      "aten::" + name + "_backward",
      places + ", " + in + ", . -> " + self +
          " whole(c) linear(0) when(reduction=0) | ., " + in + ", . -> " +
          self + " whole(c) linear(0) when(reduction!=0)");
}

// Margins between the classes c of each place n. A mean divides by the number
// of places, which must be the global one.
void add_margin_losses(RuleTable& table) {
  // torch leaves the sum over no rows unwritten.
  const std::string tails[] = {" whole(c) filled when(reduction=0)",
                               " whole(c) filled when(reduction=2)",
                               " whole(c, n) filled when(reduction=1)"};
  std::string multi;
  std::string multilabel;
  std::string multi_back;
  std::string multilabel_back;
  for (size_t r = 0; r < 3; ++r) {
    const std::string loss = r == 0 ? "n" : ".";
    const std::string bar = r == 0 ? "" : " | ";
    multi += bar + "n c, n, c -> " + loss + tails[r];
    multilabel += bar + "n c, n c -> " + loss + ", n c" + tails[r];
    multi_back += bar + loss + ", n c, n, c -> n c linear(0)" + tails[r];
    multilabel_back +=
        bar + loss + ", n c, n c, n c -> n c linear(0)" + tails[r];
  }
  table.add("aten::multi_margin_loss", multi);
  table.add("aten::multi_margin_loss_backward", multi_back);
  table.add("aten::multilabel_margin_loss_forward", multilabel);
  table.add("aten::multilabel_margin_loss_backward", multilabel_back);
}

// t steps, n sequences, c classes, s places of a target. Lists of lengths would
// have to be cut with the batch: as tensors they can be.
void add_ctc_loss(RuleTable& table) {
  table.add("aten::_ctc_loss", "t n c, s*, ... -> n, n t a program");
  table.add("aten::_ctc_loss_backward", "n, t n c, s*, ... -> t n c program");
  table.add(
      "torch_mesh::ctc_loss",
      "t n c, n s, n, n -> n, n t a size(a, width) whole(t, c, s) filled");
  table.add(
      "torch_mesh::ctc_loss_backward",
      "n, t n c, n s, n, n, n, n t a -> t n c whole(t, c, s, a) linear(0) "
      "filled");
}

}  // namespace

void add_loss_rules(RuleTable& table) {
  for (const char* name : {"mse_loss", "smooth_l1_loss", "huber_loss"}) {
    add_elementwise_loss(table, name);
  }
  add_elementwise_loss(table, "soft_margin_loss", "", /*sums_losses=*/true);
  add_elementwise_loss(table, "binary_cross_entropy", ", x*");
  add_margin_losses(table);
  add_nll_loss(table, "nll_loss", "n");
  add_nll_loss(table, "nll_loss2d", "n s*");
  add_ctc_loss(table);
}

}  // namespace torch_mesh::rules

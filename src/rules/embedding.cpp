// embedding.cpp: rows of a table, by number.
//
//   v rows   d columns   i* places
//
// A row's number says nothing on a device that holds other rows: each picks its
// own, and the results are parts of a sum.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_embedding_rules(RuleTable& table) {
  table.add("aten::embedding", "v d, i* -> i* d rewritten(v) linear(0)");
  table.add(
      "torch_mesh::pick_rows", "v x*, i -> i x* shifts(begin, v) linear(0)");
  table.add(
      "torch_mesh::pick_along",
      "v x*, i x* -> i x* shifts(begin, v) linear(0)");
  // Scaled by how often a row occurs anywhere, the parts are no sum.
  table.add(
      "aten::embedding_dense_backward",
      "i* d, i* -> v d size(v, num_weights) linear(0) "
      "when(scale_grad_by_freq=false) | "
      "i* d, i* -> v d size(v, num_weights) whole(i*) linear(0)");

  // Bags of rows; where one begins only values say.
  table.add_all(
      {"aten::_embedding_bag", "aten::_embedding_bag_forward_only"},
      "v d, i, b, ... -> c d, e, f, g program");
  table.add_all(
      {"aten::_embedding_bag_backward", "aten::_embedding_bag_dense_backward"},
      "c d, i, ... -> v d program");
  table.add(
      "aten::_embedding_bag_per_sample_weights_backward",
      "c d, v d, i, b, e -> i whole(c, v, i, b, e) linear(0, 1)");
}

}  // namespace torch_mesh::rules

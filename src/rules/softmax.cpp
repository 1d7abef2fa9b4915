// softmax.cpp: softmax runs along a whole dim; its gradient is linear.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_softmax_rules(RuleTable& table) {
  table.add_all(
      {"aten::_log_softmax", "aten::_safe_softmax", "aten::_softmax"},
      "x* -> x* whole(dim)");
  table.add_all(
      {"aten::_log_softmax_backward_data", "aten::_softmax_backward_data"},
      "x*, x* -> x* whole(dim) linear(0)");
}

}  // namespace torch_mesh::rules

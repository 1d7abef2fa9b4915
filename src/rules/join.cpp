// join.cpp: ops that put the tensors of a list together.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_join_rules(RuleTable& table) {
  table.add("aten::cat", "each: x* -> x* joins(dim) linear(*) strided");
  table.add("aten::stack", "each: x* -> x* stacks(dim) linear(*)");
}

}  // namespace torch_mesh::rules

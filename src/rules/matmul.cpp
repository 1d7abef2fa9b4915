// matmul.cpp: how matrix products shard.
//
//   b batch   m rows of the left   k contracted   n columns of the right
//
// k stands left of the arrow only: sharded, it makes the result a partial sum.
// adds(0): what is added must then count once, not once for each part. A
// product is linear in each side; with something added, in that and one side
// together.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_matmul_rules(RuleTable& table) {
  table.add("aten::dot", "k, k -> . linear(0, 1)");
  table.add("aten::vdot", "k, k -> . linear(0, 1)");
  table.add("aten::mv", "m k, k -> m linear(0, 1)");
  table.add("aten::mm", "m k, k n -> m n linear(0, 1) strided");
  table.add("aten::bmm", "b m k, b k n -> b m n linear(0, 1) strided");
  // Without elements these take other ways, which refuse what the rest takes.
  table.add("aten::addmv", "~m, m k, k -> m linear(0 1, 0 2) adds(0) filled");
  table.add(
      "aten::addmm", "~m n, m k, k n -> m n linear(0 1, 0 2) adds(0) strided");
  table.add("aten::addr", "~m n, m, n -> m n linear(0 1, 0 2)");
  table.add(
      "aten::baddbmm",
      "~b m n, b m k, b k n -> b m n linear(0 1, 0 2) adds(0) filled");
  table.add(
      "aten::addbmm",
      "~m n, b m k, b k n -> m n linear(0 1, 0 2) adds(0) filled");
  table.add("aten::linear", "b* k, n k, ~n -> b* n linear(0 2, 1 2) adds(2)");
  // An activation follows the sum, so the sum must be complete.
  table.add("aten::_addmm_activation", "~m n, m k, k n -> m n whole(k)");

  // Groups end at places of the whole; a matrix that another device holds
  // leaves its rows to that one.
  table.add("aten::_grouped_mm", "x*, y*, ... -> z* program");
  table.add(
      "torch_mesh::grouped_mm",
      "m k, g k n, _ -> m n shifts(begin, m) shifts(first, g) linear(0, 1) | "
      "m k, k n, g -> g m n shifts(begin, k) whole(g) linear(0, 1) | "
      "g m k, k n, _ -> m n shifts(begin, n) shifts(first, g) linear(0, 1)");
  table.add(
      "torch_mesh::sparse_mm",
      "2 e, e, k n -> m n size(m, rows) shifts(begin, k) whole(e) linear(2)");
}

}  // namespace torch_mesh::rules

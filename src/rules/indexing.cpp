// indexing.cpp: ops that pick or place elements by numbers in other tensors.
//
// A number says nothing on a device that holds other elements. A dim that is
// picked along is rewritten (each device picks what it holds, parts of a sum);
// one that is written along is whole. What is added at places may come in
// parts.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_indexing_rules(RuleTable& table) {
  table.add(
      "aten::gather", "x*, y* -> y* rewritten(dim) along(dim, 1) linear(0)");
  table.add(
      "aten::scatter.src",
      "x*, y*, z* -> x* rewritten(dim) along(dim) linear(0 2) "
      "refuses_overlap");
  table.add(
      "aten::scatter_add",
      "x*, y*, z* -> x* rewritten(dim) along(dim, 1) linear(0 2) adds(0) "
      "refuses_overlap");
  table.add_all(
      {"aten::scatter.reduce", "aten::scatter_reduce"},
      "x*, y*, z* -> x* rewritten(dim) along(dim) refuses_overlap");
  table.add_all(
      {"aten::scatter.value", "aten::scatter.value_reduce"},
      "x*, y* -> x* rewritten(dim) along(dim) refuses_overlap");
  table.add("torch_mesh::put_along", "x*, y*, z* -> x* along(dim, begin)");

  table.add(
      "aten::index_select",
      "x*, i -> y* rewritten(dim) swaps(dim, i, y*) linear(0) | "
      "x*, . -> x* resizes(dim, 1) linear(0)");
  table.add(
      "aten::index_add",
      "x*, i, y* -> x* rewritten(dim) swaps(dim, i, y*) linear(0 2) adds(0) "
      "refuses_overlap");
  table.add(
      "aten::index_copy",
      "x*, i, y* -> x* rewritten(dim) swaps(dim, i, y*) whole(i) "
      "linear(0 2) refuses_overlap");
  // The kernel of a product refuses slices of one element in half precision.
  table.add(
      "aten::index_reduce",
      "x*, i, y* -> x* swaps(dim, i, y*) whole(i) filled when(reduce!=prod) | "
      "x*, i, y* -> x* whole(x*, i, y*) when(reduce=prod) "
      "refuses_overlap");
  table.add(
      "aten::index_fill",
      "x*, i -> x* rewritten(dim) whole(i) | "
      "x*, i, . -> x* rewritten(dim) whole(i)");

  // A mask becomes numbers: how many, only its values say.
  table.add_all(
      {"aten::_unsafe_index", "aten::index"},
      "x*, each: i* -> x* program when(indices=masks) | "
      "x*, each: i* -> y* indexes(indices, y*, 1) linear(0)");
  table.add(
      "torch_mesh::pick_at",
      "x*, each: i* -> y* indexes(indices, y*, begin) linear(0)");
  const std::string put = "x*, each: i*, ~y* -> x* ";
  auto puts = [&](const std::string& indexes) {
    return put + indexes + " linear(0 2) adds(0) when(accumulate=true) | " +
           put + indexes + " whole(i*) linear(0 2)";
  };
  table.add_all(
      {"aten::_index_put_impl", "aten::_unsafe_index_put", "aten::index_put"},
      put + "program when(indices=masks) | " + puts("indexes(indices, y*, 1)"));
  table.add("torch_mesh::put_at", puts("indexes(indices, y*, begin)"));

  // Places in the whole tensor, laid flat.
  table.add("aten::take", "_, i* -> i*");
  table.add(
      "aten::put",
      "x*, i, i -> x* whole(x*) filled linear(0 2) adds(0) "
      "when(accumulate=true) | "
      "x*, i*, j* -> x* whole(x*, i*, j*) linear(0 2) refuses_overlap");
  table.add_words({"aten::masked_scatter_"}, "refuses_overlap");
  table.add(
      "aten::searchsorted.Tensor",
      "m, x*, m -> x* whole(m) | b* m, b* n, b* m -> b* n whole(m) checked");
  table.add("aten::isin.Tensor_Tensor", "x*, _ -> x*");
  table.add("aten::bucketize.Tensor", "x*, _ -> x*");
}

}  // namespace torch_mesh::rules

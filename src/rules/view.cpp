// view.cpp: ops that rearrange elements and compute nothing.
//
// All are linear: a view of a sum is the sum of the views.

#include "rules/families.h"

namespace torch_mesh::rules {
namespace {

void add_view_with_copies(
    RuleTable& table,
    const std::string& name,
    const std::string& overload,
    const std::string& text) {
  table.add(name + overload, text);
  table.add(name + "_copy" + overload, text);
}

}  // namespace

void add_view_rules(RuleTable& table) {
  auto add = [&](const char* name, const char* overload, const char* text) {
    add_view_with_copies(
        table, name, overload, std::string(text) + " linear(0)");
  };
  table.add_all(
      {"aten::alias", "aten::alias_copy", "aten::detach", "aten::detach_copy"},
      "x* -> x* linear(0)");
  table.add_all(
      {"aten::_reshape_alias",
       "aten::_reshape_copy",
       "aten::view",
       "aten::view_copy"},
      "x* -> x* view(size) linear(0)");
  table.add("aten::_unsafe_view", "x* -> x* view(size) linear(0) like_view");
  table.add("aten::reshape", "x* -> x* view(shape) linear(0)");
  add("aten::permute", "", "x* -> x* permutes(dims)");
  add("aten::transpose", ".int", "x* -> x* transposes(dim0, dim1)");
  table.add_all(
      {"aten::t", "aten::t_copy"},
      "m n -> n m linear(0) | m -> m linear(0) | . -> . linear(0)");
  add("aten::select", ".int", "x* -> x* selects(dim)");
  add("aten::slice", ".Tensor", "x* -> x* slices(dim, start, end, step)");
  add("aten::unsqueeze", "", "x* -> x* unsqueezes(dim)");
  add("aten::squeeze", "", "x* -> x* squeezes(dim)");
  add("aten::expand", "", "x* -> x* expands(size)");
  add("aten::diagonal", "", "x* -> x* diagonals(offset, dim1, dim2)");
  add("aten::unfold", "", "x* -> x* unfolds(dimension, size, step)");
  add("aten::split", ".Tensor", "x* -> each: x* splits(dim, split_size)");
  add("aten::split_with_sizes", "", "x* -> each: x* splits(dim, split_sizes)");
  add("aten::unbind", ".int", "x* -> each: x* unbinds(dim)");

  table.add(
      "aten::slice_backward",
      "x* -> x* unslices(input_sizes, dim, start, end, step) linear(0)");
  table.add(
      "aten::select_backward",
      "x* -> x* unselects(input_sizes, dim) linear(0)");
  table.add(
      "aten::diagonal_backward",
      "x* -> x* restores(input_sizes, dim1, dim2) linear(0)");
  table.add(
      "aten::unfold_backward", "x* -> x* restores(input_sizes, dim) linear(0)");
  table.add(
      "aten::diag_embed",
      "b* n -> b* p q when(dim1=-2, dim2=-1) whole(n) linear(0)");
  table.add("aten::narrow_copy", "x* -> x* resizes(dim, length) linear(0)");
  table.add("aten::slice_scatter", "x*, y* -> x* along(dim) linear(0 1)");
  table.add_all({"aten::flip", "aten::roll"}, "x* -> x* whole(dims) linear(0)");
  table.add("aten::repeat", "x* -> x* repeats(repeats) linear(0)");
  table.add_all(
      {"aten::tril", "aten::triu"},
      "b* m n -> b* m n shifts(diagonal, m, n) linear(0)");
}

}  // namespace torch_mesh::rules

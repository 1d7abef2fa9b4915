// reduction.cpp: ops that reduce dims, and ops that run along one.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_reduction_rules(RuleTable& table) {
  // A cast to an integer type comes first, so a sum with one is not linear.
  table.add(
      "aten::sum",
      "x* -> x* reduces(dim, keepdim) linear(0) when(dtype=floating) strided | "
      "x* -> x* reduces(dim, keepdim) strided");
  table.add_all(
      {"aten::nansum", "aten::count_nonzero"},
      "x* -> x* reduces(dim, keepdim)");
  table.add("aten::mean", "x* -> x* rewrites(dim, keepdim) linear(0)");
  table.add_all(
      {"aten::std.correction", "aten::var.correction"},
      "x* -> x* rewrites(dim, keepdim)");
  table.add_all(
      {"aten::std_mean.correction", "aten::var_mean.correction"},
      "x* -> x*, x* rewrites(dim, keepdim)");
  table.add("aten::linalg_vector_norm", "x* -> x* rewrites(dim, keepdim)");
  table.add_all(
      {"aten::amax",
       "aten::amin",
       "aten::argmax",
       "aten::argmin",
       "aten::logsumexp",
       "aten::norm",
       "aten::prod"},
      "x* -> x* reduces_whole(dim, keepdim)");
  // An empty list of dims reduces nothing here.
  table.add_all(
      {"aten::all", "aten::any"},
      "x* -> x* when(dim=[]) | x* -> x* rewrites(dim, keepdim)");
  table.add_all(
      {"aten::max", "aten::median", "aten::min", "aten::nanmedian"},
      "x* -> . whole(x*)");
  table.add_all(
      {"aten::aminmax",
       "aten::kthvalue",
       "aten::max.dim",
       "aten::median.dim",
       "aten::min.dim",
       "aten::mode",
       "aten::nanmedian.dim"},
      "x* -> x*, x* reduces_whole(dim, keepdim)");
  // Where a range is not given, it is that of all values; how many numbers
  // there are to count, the largest says; the answer of `equal` is a number.
  table.add("aten::histc", "x* -> x* program");
  table.add("torch_mesh::histogram", "x* -> b size(b, bins)");
  table.add("aten::bincount", "i, i -> b program");
  table.add("aten::equal", "x*, y* -> . program");
  table.add("aten::trace", "m n -> . whole(m, n)");

  table.add(
      "aten::cumsum",
      "x* -> x* whole(dim) linear(0) when(dtype=floating) refuses_overlap | "
      "x* -> x* whole(dim) refuses_overlap");
  table.add("aten::cumprod", "x* -> x* whole(dim) refuses_overlap");
  table.add_all(
      {"aten::_logcumsumexp", "aten::logcumsumexp"}, "x* -> x* whole(dim)");
  table.add_all({"aten::cummax", "aten::cummin"}, "x* -> x*, x* whole(dim)");
  table.add("aten::sort", "x* -> x*, x* whole(dim)");
  table.add("aten::argsort", "x* -> x* whole(dim)");
  table.add("aten::topk", "x* -> x*, x* resizes(dim, k)");
  table.add("aten::renorm", "x* -> x* whole(x*) refuses_overlap");
}

}  // namespace torch_mesh::rules

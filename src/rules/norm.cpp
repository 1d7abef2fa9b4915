// norm.cpp: normalisations and their gradients.
//
//   b* leading dims   n* normalised dims   n batch   c channels   g groups
//   s* spatial dims

#include "rules/families.h"

namespace torch_mesh::rules {
namespace {

// What is saved is empty then.
constexpr const char* kEvaluated =
    " -> n c s*, 0 ^n c, 0 ^n c whole(s*) filled";

// Statistics of a batch need all of it: n and s* are rewritten with sums over
// the whole batch, or whole where `batch` says so. In evaluation the statistics
// are given, and nothing but the channels meets.
std::string batch_norm(const std::string& inputs, const std::string& batch) {
  return inputs + " -> n c s*, c, c " + batch +
         " filled when(training=true) | " + inputs + kEvaluated +
         " when(training=false)";
}

}  // namespace

void add_norm_rules(RuleTable& table) {
  table.add(
      "aten::native_layer_norm",
      "b* n*, n*, n* -> b* n*, b* n*1, b* n*1 "
      "size(n*, normalized_shape) whole(n*)");
  table.add(
      "aten::native_layer_norm_backward",
      "b* n*, b* n*, b* n*1, b* n*1, n*, n* -> b* n*, n*, n* "
      "size(n*, normalized_shape) whole(n*) linear(0)");
  table.add(
      "aten::_fused_rms_norm",
      "b* n*, n* -> b* n*, b* n*1 size(n*, normalized_shape) whole(n*)");
  table.add(
      "aten::_fused_rms_norm_backward",
      "b* n*, b* n*, b* n*1, n* -> b* n*, n* "
      "size(n*, normalized_shape) whole(n*) linear(0)");

  table.add(
      "aten::native_group_norm",
      "n (g c) s*, (g c), (g c) -> n (g c) s*, n g, n g "
      "size(n, N) size(g, group) size(g c, C) size(s*, HxW) whole(c, s*) "
      "filled");
  table.add(
      "aten::native_group_norm_backward",
      "n (g c) s*, n (g c) s*, n g, n g, (g c) -> "
      "n (g c) s*, (g c), (g c) "
      "size(n, N) size(g, group) size(g c, C) size(s*, HxW) whole(c, s*) "
      "filled linear(0)");

  // Norms of what lies along the first dim, or the last.
  table.add(
      "aten::_weight_norm_interface",
      "n x*, n x*1 -> n x*, n x*1 rewritten(x*) when(dim=0) | "
      "x* n, x*1 n -> x* n, x*1 n rewritten(x*)");
  table.add(
      "aten::_weight_norm_interface_backward",
      "n x*, n x*, n x*1, n x*1 -> n x*, n x*1 rewritten(x*) linear(0) "
      "when(dim=0) | "
      "x* n, x* n, x*1 n, x*1 n -> x* n, x*1 n rewritten(x*) linear(0)");

  const std::string with_statistics = "n c s*, c, c, c, c";
  table.add_all(
      {"aten::_native_batch_norm_legit", "aten::native_batch_norm"},
      batch_norm(with_statistics, "rewritten(n, s*)"));
  table.add(
      "aten::_native_batch_norm_legit.no_stats",
      "n c s*, c, c -> n c s*, c, c rewritten(n, s*) filled "
      "when(training=true)");
  table.add(
      "aten::_native_batch_norm_legit_no_training",
      with_statistics + kEvaluated);
  table.add(
      "aten::native_batch_norm_backward",
      "n c s*, n c s*, c, c, c, c, c -> n c s*, c, c rewritten(n, s*) "
      "filled linear(0) when(train=true) | "
      "n c s*, n c s*, c, c, c, e, f -> n c s*, c, c whole(s*, e, f) "
      "filled linear(0) when(train=false)");
}

}  // namespace torch_mesh::rules

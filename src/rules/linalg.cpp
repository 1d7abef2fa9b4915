// linalg.cpp: matrices whole, batches of them in parts.
//
//   b* batch   m, n the matrix   k right sides; other letters stand for sizes
//   that the op itself gives
//
// Kernels differ in which arguments broadcast and which results are left empty,
// so what the plan says is checked against the op's own sizes.

#include "rules/families.h"

namespace torch_mesh::rules {
namespace {

// Ops of one matrix.
void add_factorizations(RuleTable& table) {
  const std::string tail = " whole(m, n) checked";
  auto add = [&](const char* name, const std::string& outputs) {
    table.add(name, "b* m n -> " + outputs + tail);
  };
  table.add("aten::cholesky", "b* m n -> b* i j" + tail + " contiguous_out");
  for (const char* name : {"aten::cholesky_inverse",
                           "aten::linalg_matrix_exp",
                           "aten::linalg_pinv"}) {
    add(name, "b* i j");
  }
  add("aten::linalg_cholesky_ex", "b* m n, b*");
  add("aten::linalg_inv_ex", "b* m n, b*");
  add("aten::_linalg_det", "b*, b* m n, b* p");
  add("aten::_linalg_slogdet", "b*, b*, b* m n, b* p");
  add("aten::linalg_eig", "b* n, b* n m");
  add("aten::linalg_eigvals", "b* n");
  add("aten::_linalg_eigvals", "b* n");
  add("aten::geqrf", "b* m n, b* k");
  add("aten::linalg_lu_factor_ex", "b* m n, b* p, b*");
  add("aten::linalg_ldl_factor_ex", "b* m n, b* p, b*");
  table.add(
      "aten::linalg_pinv.atol_rtol_tensor", "b* m n, b*, b* -> b* i j" + tail);
  // What is not asked for has the sizes [0].
  const std::string all = "b* m n -> ";
  table.add(
      "aten::_linalg_eigh",
      all + "b* n, b* n m when(compute_v=true)" + tail + " | " + all +
          "b* n, 0 ^b* when(compute_v=false)" + tail);
  table.add(
      "aten::_linalg_svd",
      all + "b* m u, b* s, b* v n when(compute_uv=true)" + tail + " | " + all +
          "0 ^b*, b* s, 0 ^b* when(compute_uv=false)" + tail);
  table.add(
      "aten::linalg_qr",
      all + "b* m q, b* r n when(mode!=r)" + tail + " | " + all +
          "0 ^b*, b* r n when(mode=r)" + tail);
  table.add(
      "aten::linalg_lu",
      all + "b* m p, b* m l, b* u n when(pivot=true)" + tail + " | " + all +
          "0 ^b*, b* m l, b* u n when(pivot=false)" + tail);
  table.add(
      "aten::lu_unpack",
      "b* m n, b* k -> b* m p, b* m l, b* u n whole(m, n, k) checked");
}

// Ops of a matrix and right sides. What is solved for may be transposed, and
// the right sides may be a vector.
void add_solvers(RuleTable& table) {
  auto add = [&](const char* name,
                 const std::string& inputs,
                 const std::string& outputs,
                 const std::string& letters) {
    table.add(
        name, inputs + " -> " + outputs + " whole(" + letters + ") checked");
  };
  add("aten::linalg_solve_triangular",
      "b* m n, b* i j",
      "b* i j",
      "m, n, i, j");
  add("aten::triangular_solve",
      "b* i j, b* m n",
      "b* i j, b* m n",
      "m, n, i, j");
  add("aten::linalg_lu_solve",
      "b* m n, b* p, b* i j",
      "b* i j",
      "m, n, p, i, j");
  add("aten::linalg_ldl_solve",
      "b* m n, b* p, b* i j",
      "b* i j",
      "m, n, p, i, j");
  add("aten::_cholesky_solve_helper", "b* i j, b* m n", "b* i j", "m, n, i, j");
  add("aten::linalg_householder_product", "b* m n, b* k", "b* m n", "m, n, k");
  add("aten::ormqr", "b* m n, b* k, b* i j", "b* i j", "m, n, k, i, j");
  const std::string rest = ", b* m n, b* p, b* whole(m, n, i";
  table.add(
      "aten::_linalg_solve_ex",
      "b* m n, b* i j -> b* i j" + rest + ", j) checked | " +
          "b* m n, b* i -> b* i" + rest + ") checked");
}

}  // namespace

void add_linalg_rules(RuleTable& table) {
  add_factorizations(table);
  add_solvers(table);
  table.add("aten::linalg_cross", "x*, x* -> x* whole(dim) linear(0, 1)");
  table.add_all(
      {"aten::_cdist_forward", "aten::_euclidean_dist"},
      "b* m k, b* n k -> b* m n whole(k)");
  // Without elements it gives zeros like its argument, not broadcast.
  table.add(
      "aten::_cdist_backward",
      "b* m n, b* m k, b* n k, b* m n -> b* m k whole(n, k) checked filled "
      "linear(0)");
}

}  // namespace torch_mesh::rules

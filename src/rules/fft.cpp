// fft.cpp: Fourier transforms run along whole dims and are linear.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_fft_rules(RuleTable& table) {
  table.add(
      "aten::_fft_c2c", "x* -> x* whole(dim) filled linear(0) contiguous_out");
  // Of a real signal half of the spectrum is kept.
  table.add_all(
      {"aten::_fft_c2r", "aten::_fft_r2c"},
      "x* -> x* remakes(dim) filled linear(0) contiguous_out");
}

}  // namespace torch_mesh::rules

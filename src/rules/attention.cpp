// attention.cpp: fused attention.
//
//   b batch   h heads   l queries   s keys   e, f features of keys and values
//
// A query sees all keys, so s is whole; if the mask is causal, its number
// counts too, so l is whole as well.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_attention_rules(RuleTable& table) {
  table.add(
      "aten::_scaled_dot_product_flash_attention_for_cpu",
      "b h l e, b h s e, b h s f, ~b h l s -> b h l f, b h l "
      "whole(e, s, f) filled when(is_causal=false) | "
      "b h l e, b h s e, b h s f, ~b h l s -> b h l f, b h l "
      "whole(e, s, f, l) filled");
  table.add(
      "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
      "b h l f, b h l e, b h s e, b h s f, b h l f, b h l, ~b h l s -> "
      "b h l e, b h s e, b h s f whole(e, s, f) filled linear(0) "
      "when(is_causal=false) | "
      "b h l f, b h l e, b h s e, b h s f, b h l f, b h l, ~b h l s -> "
      "b h l e, b h s e, b h s f whole(e, s, f, l) filled linear(0)");
}

}  // namespace torch_mesh::rules

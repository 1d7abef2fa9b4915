// attention.cpp: fused attention.
//
//   b batch   h heads   l queries   s keys   e, f features of keys and values
//
// A query sees all keys, so s is whole; if the mask is causal, its number
// counts too, so l is whole as well.

#include <string>

#include "rules/families.h"

namespace torch_mesh::rules {

namespace {

// Of whole layers, in eval. A mask is of the keys of each sequence (1), of
// queries and keys for all (0), or of both (2).
void add_layer_rules(RuleTable& table) {
  struct Mask {
    std::string term, condition;
  };
  const Mask masks[] = {
      {"_", "mask_type=None"},
      {"_", "mask_type=0"},
      {"b s", "mask_type=1"},
      {"b n l s", "mask_type=2"},
  };
  std::string encoder, attention;
  for (const Mask& mask : masks) {
    encoder += std::string(encoder.empty() ? "" : " | ") +
               "b s e, _, _, _, _, _, _, _, _, _, _, _, _, " +
               (mask.condition == "mask_type=2" ? "b n l m" : mask.term) +
               " -> b s e whole(s, e" +
               (mask.condition == "mask_type=2" ? ", n, l, m" : "") +
               ") filled when(" + mask.condition + ")";
    const std::string from =
        "b l e, b s f, b s g, _, _, _, _, " + mask.term + " -> b l e, ";
    const std::string whole = std::string("whole(l, s, e, f, g") +
                              (mask.term == "b n l s" ? ", n" : "");
    attention += std::string(attention.empty() ? "" : " | ") + from + "b l s " +
                 whole + ") filled when(" + mask.condition +
                 ", need_weights=true, average_attn_weights=true) | " + from +
                 "b h l s " + whole + ", h) size(h, num_head) filled when(" +
                 mask.condition +
                 ", need_weights=true, average_attn_weights=false) | " + from +
                 ". " + whole + ") filled when(" + mask.condition +
                 ", need_weights=false)";
  }
  table.add("aten::_transformer_encoder_layer_fwd", encoder);
  table.add("aten::_native_multi_head_attention", attention);
}

}  // namespace

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
  add_layer_rules(table);
}

}  // namespace torch_mesh::rules

// all.cpp: every family, in one place.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_all_rules(RuleTable& table) {
  add_attention_rules(table);
  add_convolution_rules(table);
  add_embedding_rules(table);
  add_fft_rules(table);
  add_indexing_rules(table);
  add_join_rules(table);
  add_linalg_rules(table);
  add_loss_rules(table);
  add_matmul_rules(table);
  add_norm_rules(table);
  add_pointwise_rules(table);
  add_pooling_rules(table);
  add_random_rules(table);
  add_reduction_rules(table);
  add_softmax_rules(table);
  add_view_rules(table);
}

}  // namespace torch_mesh::rules

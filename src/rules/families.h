// families.h: the table of rules, one function for each family of ops.

#pragma once

#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <torch_mesh/rule.h>

namespace torch_mesh::rules {

// Rules by op name. A name without an overload ("aten::sum") stands for all
// overloads that have no line of their own.
class RuleTable {
 public:
  // Throws [rule-text].
  void add(const std::string& name, std::string_view text);
  void add_all(std::initializer_list<const char*> names, std::string_view text);
  void add(
      const std::string& name,
      std::shared_ptr<const Rule> rule,
      std::string_view text);
  // Words about the kernels of ops that have no rule of their own. Throws
  // [rule-text].
  void add_words(
      std::initializer_list<const char*> names,
      std::string_view words);

  std::map<std::string, std::shared_ptr<const Rule>> rules;
  // What rules and lines of words say of kernels.
  std::map<std::string, std::vector<std::string>> words;
};

// all.cpp calls each of these.
void add_attention_rules(RuleTable& table);
void add_convolution_rules(RuleTable& table);
void add_embedding_rules(RuleTable& table);
void add_fft_rules(RuleTable& table);
void add_indexing_rules(RuleTable& table);
void add_join_rules(RuleTable& table);
void add_linalg_rules(RuleTable& table);
void add_loss_rules(RuleTable& table);
void add_matmul_rules(RuleTable& table);
void add_norm_rules(RuleTable& table);
void add_pointwise_rules(RuleTable& table);
void add_pooling_rules(RuleTable& table);
void add_random_rules(RuleTable& table);
void add_reduction_rules(RuleTable& table);
void add_softmax_rules(RuleTable& table);
void add_view_rules(RuleTable& table);
void add_all_rules(RuleTable& table);

// Whether the rule of an op says this word of its kernels, or a line of words
// does ("What a kernel does" in docs/notation.md). By the op's name, as
// find_rule.
bool op_says(const std::string& op_name, std::string_view word);

// Calls `listener` after each register_rule.
void on_new_rule(void (*listener)());

// The rule of ops that torch tags as pointwise and that have no line here.
std::shared_ptr<const Rule> pointwise_rule();

// The op on one element that an op on lists applies to each of them:
// "aten::_foreach_add_.List" -> "aten::add_.Tensor". "" for other ops.
std::string foreach_element_op(const std::string& name);

// Whether torch names it as an op on lists: "aten::_foreach_...", out= too.
bool is_foreach_name(const std::string& name);

// Whether the lists of an op belong together element by element, each element
// pointwise in itself: `_foreach_*` but for reductions and matrix products,
// `_fused_adam_` and its like.
bool is_elementwise_group(const std::string& name);

}  // namespace torch_mesh::rules

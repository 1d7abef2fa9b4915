// rule_table.cpp: finds the rule of an op by its name.

#include <algorithm>
#include <array>
#include <mutex>
#include <shared_mutex>

#include <torch_mesh/rule.h>

#include "rules/families.h"
#include "rules/modifiers.h"

namespace torch_mesh {
namespace {

struct Registry {
  Registry() { rules::add_all_rules(table); }

  std::shared_mutex mutex;  // guards the rest
  rules::RuleTable table;
  std::vector<void (*)()> listeners;
};

Registry& registry() {
  static Registry* registry = new Registry;
  return *registry;
}

// "aten::add_.Tensor" -> "aten::add.Tensor"
std::string functional_name(const std::string& name) {
  const size_t end = std::min(name.find('.'), name.size());
  if (end < 2 || name[end - 1] != '_' || name[end - 2] == '_') {
    return name;
  }
  return name.substr(0, end - 1) + name.substr(end);
}

std::string base_name(const std::string& name) {
  return name.substr(0, name.find('.'));
}

// The names that a rule of the op may stand under, the most specific first.
std::array<std::string, 4> names_of(const std::string& op_name) {
  const std::string functional = functional_name(op_name);
  return {op_name, functional, base_name(op_name), base_name(functional)};
}

}  // namespace

namespace rules {

void RuleTable::add(const std::string& name, std::string_view text) {
  add(name, Rule::parse(text), text);
}

void RuleTable::add_all(
    std::initializer_list<const char*> names,
    std::string_view text) {
  const std::shared_ptr<const Rule> rule = Rule::parse(text);
  for (const char* name : names) {
    add(name, rule, text);
  }
}

void RuleTable::add(
    const std::string& name,
    std::shared_ptr<const Rule> rule,
    std::string_view text) {
  rules[name] = std::move(rule);
  words[name] = kernel_words_in(text);
}

void RuleTable::add_words(
    std::initializer_list<const char*> names,
    std::string_view text) {
  const std::vector<std::string> said = parse_kernel_words(text);
  for (const char* name : names) {
    words[name] = said;
  }
}

}  // namespace rules

std::shared_ptr<const Rule> find_rule(const std::string& op_name) {
  Registry& all = registry();
  std::shared_lock lock(all.mutex);
  for (const std::string& name : names_of(op_name)) {
    auto found = all.table.rules.find(name);
    if (found != all.table.rules.end()) {
      return found->second;
    }
  }
  return nullptr;
}

void register_rule(const std::string& op_name, std::string_view text) {
  std::shared_ptr<const Rule> rule = Rule::parse(text);
  Registry& all = registry();
  std::vector<void (*)()> listeners;
  {
    std::unique_lock lock(all.mutex);
    all.table.add(op_name, std::move(rule), text);
    listeners = all.listeners;
  }
  for (const auto listener : listeners) {
    listener();
  }
}

namespace rules {

bool op_says(const std::string& op_name, std::string_view word) {
  Registry& all = registry();
  std::shared_lock lock(all.mutex);
  for (const std::string& name : names_of(op_name)) {
    const auto found = all.table.words.find(name);
    if (found != all.table.words.end()) {
      const std::vector<std::string>& words = found->second;
      return std::find(words.begin(), words.end(), word) != words.end();
    }
  }
  return false;
}

void on_new_rule(void (*listener)()) {
  Registry& all = registry();
  std::unique_lock lock(all.mutex);
  all.listeners.push_back(listener);
}

}  // namespace rules

std::vector<std::string> rule_names() {
  Registry& all = registry();
  std::shared_lock lock(all.mutex);
  std::vector<std::string> names;
  for (const auto& [name, rule] : all.table.rules) {
    names.push_back(name);
  }
  return names;
}

}  // namespace torch_mesh

// rule_table.cpp: finds the rule of an op by its name.

#include <algorithm>
#include <mutex>
#include <shared_mutex>

#include <torch_mesh/rule.h>

#include "rules/families.h"

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

}  // namespace

namespace rules {

void RuleTable::add(const std::string& name, std::string_view text) {
  rules[name] = Rule::parse(text);
}

void RuleTable::add_all(
    std::initializer_list<const char*> names,
    std::string_view text) {
  const std::shared_ptr<const Rule> rule = Rule::parse(text);
  for (const char* name : names) {
    rules[name] = rule;
  }
}

}  // namespace rules

std::shared_ptr<const Rule> find_rule(const std::string& op_name) {
  const std::string functional = functional_name(op_name);
  Registry& all = registry();
  std::shared_lock lock(all.mutex);
  for (const std::string& name :
       {op_name, functional, base_name(op_name), base_name(functional)}) {
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
    all.table.rules[op_name] = std::move(rule);
    listeners = all.listeners;
  }
  for (const auto listener : listeners) {
    listener();
  }
}

namespace rules {

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

// ops.cpp: operators as rules see them, made once each.

#include "dispatch/ops.h"

#include <atomic>
#include <map>
#include <mutex>
#include <shared_mutex>

#include <torch_mesh/error.h>

#include "dispatch/program.h"
#include "rules/families.h"
#include "run/foreach.h"
#include "run/local_kernel.h"

namespace torch_mesh {
namespace {

Op::ParamKind kind_of(const c10::TypePtr& type) {
  const std::string text = type->str();
  if (text == "Tensor" || text == "Tensor?") {
    return Op::ParamKind::kTensor;
  }
  if (text == "Tensor[]") {
    return Op::ParamKind::kTensorList;
  }
  if (text == "Tensor?[]") {
    return Op::ParamKind::kOptionalTensorList;
  }
  if (text.rfind("number", 0) == 0 || text.rfind("Scalar", 0) == 0) {
    return Op::ParamKind::kNumber;
  }
  if (text.rfind("float", 0) == 0 || text.rfind("complex", 0) == 0) {
    return Op::ParamKind::kDouble;
  }
  if (text.rfind("Device", 0) == 0) {
    return Op::ParamKind::kDevice;
  }
  if (text.rfind("Generator", 0) == 0) {
    return Op::ParamKind::kIgnored;
  }
  return Op::ParamKind::kValue;
}

OpSchema::Param param_of(
    const c10::Argument& argument,
    std::map<std::string, int>& alias_sets) {
  OpSchema::Param param;
  param.name = argument.name();
  const Op::ParamKind kind = kind_of(argument.type());
  param.is_tensor = kind == Op::ParamKind::kTensor;
  param.is_tensor_list = kind == Op::ParamKind::kTensorList ||
                         kind == Op::ParamKind::kOptionalTensorList;
  if (const c10::AliasInfo* alias = argument.alias_info()) {
    param.is_written = alias->isWrite();
    // Of a list the elements alias: Tensor(a)[].
    if (alias->beforeSets().empty() && !alias->containedTypes().empty()) {
      alias = &alias->containedTypes()[0];
    }
    if (!alias->beforeSets().empty()) {
      const std::string set = alias->beforeSets().begin()->toUnqualString();
      param.alias = alias_sets.emplace(set, static_cast<int>(alias_sets.size()))
                        .first->second;
    }
  }
  return param;
}

// What its rule says of torch's kernels. An op in place shares that of the
// functional op, of which some words are not true for it, and some for it
// alone.
void read_words(Op& op) {
  const std::string& name = op.schema.name;
  const auto says = [&name](const char* word) {
    return rules::op_says(name, word);
  };
  const bool is_pointwise = op.schema.is_pointwise;
  const bool in_place =
      !op.params.empty() && op.schema.params[0].is_written && !op.is_out;
  op.moves_no_data = op.is_view || says("like_view");
  op.needs_dense =
      !is_pointwise && !op.is_view && !(says("strided") && !in_place);
  op.checks_overlap = (is_pointwise || (says("refuses_overlap") && in_place)) &&
                      !says("bears_overlap") && !rules::is_foreach_name(name);
  op.overwrites = says("overwrites") && in_place;
  op.divides = says("divides");
}

bool may_run_on_replicas(const Op& op) {
  const bool plain = !op.moves_no_data && !op.is_inplace_view && !op.is_out &&
                     !op.is_random && !op.is_python;
  return plain && (!op.program ||
                   find_program(op.schema.name, Program::When::kMayDecline));
}

void find_programs(Op& op) {
  const std::string& name = op.schema.name;
  op.program = find_program(name, Program::When::kAlways);
  if (!op.program) {
    op.program = find_program(name, Program::When::kMayDecline);
  }
  op.program_where_cut = find_program(name, Program::When::kWhereCut);
  if (op.is_out) {
    op.variant = find_program("", Program::When::kOut);
  } else if (op.is_inplace_view) {
    op.variant = find_program("", Program::When::kInplaceView);
  }
}

std::unique_ptr<Op> describe(const c10::OperatorHandle& handle) {
  auto made = std::make_unique<Op>(handle);
  Op& op = *made;
  const c10::FunctionSchema& torch_schema = handle.schema();
  op.base_name = torch_schema.name();
  op.schema.name = op.base_name;
  if (!torch_schema.overload_name().empty()) {
    op.schema.name += "." + torch_schema.overload_name();
  }
  op.hash = ParamName::hash_of(op.schema.name);
  std::map<std::string, int> alias_sets;
  for (const c10::Argument& argument : torch_schema.arguments()) {
    if (argument.name() == "memory_format") {
      op.memory_format_param = static_cast<int>(op.params.size());
    }
    op.schema.params.push_back(param_of(argument, alias_sets));
    op.params.push_back(kind_of(argument.type()));
    op.param_hashes.push_back(ParamName::hash_of(argument.name()));
    op.is_out |= argument.is_out();
  }
  for (const c10::Argument& result : torch_schema.returns()) {
    op.schema.returns.push_back(param_of(result, alias_sets));
    const OpSchema::Param& param = op.schema.returns.back();
    op.is_view |= param.alias >= 0 && !param.is_written;
  }
  op.schema.is_pointwise = handle.hasTag(at::Tag::pointwise);
  op.is_inplace_view = handle.hasTag(at::Tag::inplace_view);
  op.is_random = handle.hasTag(at::Tag::nondeterministic_seeded);
  op.is_python = op.base_name.rfind("aten::", 0) != 0 &&
                 op.base_name.rfind("prims::", 0) != 0 &&
                 op.base_name.rfind("torch_mesh::", 0) != 0;
  op.is_foreach = is_foreach_op(op.schema.name);
  op.counts_writes = op.is_foreach && rules::is_foreach_name(op.schema.name);
  read_words(op);
  // A copy makes its own.
  op.makes_like = op.schema.param("device") >= 0 && !op.params.empty() &&
                  op.params[0] == Op::ParamKind::kTensor &&
                  op.schema.param("non_blocking") < 0;
  find_programs(op);
  op.local_kernel = local_kernel(op.schema.name);
  op.runs_on_replicas = may_run_on_replicas(op);
  return made;
}

struct Registry {
  std::shared_mutex mutex;  // guards `ops` and `gone`
  std::map<std::string, std::unique_ptr<Op>> ops;
  std::vector<std::unique_ptr<Op>> gone;  // a call may still run them
  std::atomic<uint64_t> num_gone{0};
};

std::string key_of(const c10::OperatorHandle& handle) {
  const c10::OperatorName& name = handle.operator_name();
  return name.name + "." + name.overload_name;
}

// Forgets operators that torch takes out of its dispatcher.
class Forgetter final : public c10::OpRegistrationListener {
 public:
  explicit Forgetter(Registry& registry) : registry_(registry) {}

  void onOperatorRegistered(const c10::OperatorHandle&) override {}

  void onOperatorDeregistered(const c10::OperatorHandle& handle) override {
    std::unique_lock lock(registry_.mutex);
    auto found = registry_.ops.find(key_of(handle));
    if (found != registry_.ops.end()) {
      registry_.gone.push_back(std::move(found->second));
      registry_.ops.erase(found);
    }
    ++registry_.num_gone;
  }

 private:
  Registry& registry_;
};

Registry& registry() {
  // Both stay for good: torch has no end at which they would have to go.
  static auto& registry = *new Registry;
  static auto& listener = *new c10::RegistrationHandleRAII(
      c10::Dispatcher::singleton().addRegistrationListener(
          std::make_unique<Forgetter>(registry)));
  (void)listener;
  return registry;
}

}  // namespace

const Op& op_of(const c10::OperatorHandle& handle) {
  const std::string key = key_of(handle);
  {
    std::shared_lock lock(registry().mutex);
    auto found = registry().ops.find(key);
    if (found != registry().ops.end()) {
      return *found->second;
    }
  }
  auto op = describe(handle);
  std::unique_lock lock(registry().mutex);
  return *registry().ops.emplace(key, std::move(op)).first->second;
}

uint64_t num_ops_gone() {
  return registry().num_gone.load(std::memory_order_acquire);
}

void clear_plans() {
  std::shared_lock lock(registry().mutex);
  for (const auto& [name, op] : registry().ops) {
    op->cache.clear();
    op->element_cache.clear();
  }
}

const Op& op_named(const char* name, const char* overload) {
  return op_of(c10::Dispatcher::singleton().findSchemaOrThrow(name, overload));
}

}  // namespace torch_mesh

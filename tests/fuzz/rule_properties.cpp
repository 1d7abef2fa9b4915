// rule_properties.cpp: texts of rules, and rules that meet calls.

#include <torch_mesh/rule.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include <torch_mesh/error.h>

#include "fuzz/properties.h"
#include "plan/plan.h"
#include "rules/notation.h"

namespace torch_mesh::fuzz {
namespace {

using rules::Alternative;
using rules::Modifier;

const std::vector<std::string>& rules_of_table() {
  static const auto* texts = [] {
    std::set<std::string> all;
    for (const std::string& name : rule_names()) {
      all.insert(find_rule(name)->str());
    }
    return new std::vector<std::string>(all.begin(), all.end());
  }();
  return *texts;
}

// --- texts -------------------------------------------------------------------

// A rule made of pieces that rules are made of.
std::string text_of_pieces(Bytes& bytes) {
  static const std::vector<std::string> kPieces = [] {
    std::set<std::string> words = {
        ",",         "->",      "|",         "...",
        "each:",     "~",       "_",         ".",
        "(",         ")",       "^",         "99999999999999999999",
        "-1",        "2",       "x*",        "y*",
        "x*1",       "(b t)",   "m1",        "linear(*)",
        "when(a=1)", "when(=)", "whole(-1)", "dim"};
    for (const std::string& rule : rules_of_table()) {
      std::string word;
      for (char c : rule + " ") {
        if (c != ' ') {
          word += c;
        } else if (!word.empty()) {
          words.insert(std::exchange(word, ""));
        }
      }
    }
    return std::vector<std::string>(words.begin(), words.end());
  }();
  std::string text;
  for (int64_t i = bytes.below(16); i > 0; --i) {
    text += bytes.pick(kPieces) + (bytes.below(8) == 0 ? "" : " ");
  }
  return text;
}

// A rule of the table, with a change or two.
std::string changed_rule(Bytes& bytes) {
  std::string text = bytes.pick(rules_of_table());
  for (int64_t i = bytes.below(4); i > 0; --i) {
    const size_t at = bytes.below(static_cast<int64_t>(text.size()) + 1);
    const size_t length = std::min<size_t>(bytes.below(5), text.size() - at);
    switch (bytes.below(3)) {
      case 0:
        text.erase(at, length);
        break;
      case 1:
        text.insert(at, text_of_pieces(bytes));
        break;
      default:
        text.replace(at, length, bytes.text(2));
    }
  }
  return text;
}

void require_equal(
    const std::vector<Alternative>& a,
    const std::vector<Alternative>& b,
    const std::string& facts) {
  require(a.size() == b.size(), facts);
  for (size_t i = 0; i < a.size(); ++i) {
    require(a[i].inputs == b[i].inputs, facts);
    require(a[i].outputs == b[i].outputs, facts);
    require(a[i].modifiers.size() == b[i].modifiers.size(), facts);
    for (size_t m = 0; m < a[i].modifiers.size(); ++m) {
      require(a[i].modifiers[m].name == b[i].modifiers[m].name, facts);
      require(a[i].modifiers[m].args == b[i].modifiers[m].args, facts);
    }
  }
}

// nullptr if the text is no rule.
std::shared_ptr<const Rule> rule_of(const std::string& text) {
  std::shared_ptr<const Rule> rule;
  try {
    rule = Rule::parse(text);
  } catch (const CoreError& error) {
    require(
        std::string(error.code) == "rule-text",
        "\"",
        text,
        "\" throws ",
        error.what());
    return nullptr;
  }
  const std::string facts = "\"" + text + "\" prints \"" + rule->str() + "\"";
  std::shared_ptr<const Rule> again;
  try {
    again = Rule::parse(rule->str());
  } catch (const CoreError& error) {
    throw Broken(facts + ": " + error.what());
  }
  require(again->str() == rule->str(), facts);
  require_equal(
      rules::parse_notation(text), rules::parse_notation(rule->str()), facts);
  return rule;
}

// --- calls -------------------------------------------------------------------

TensorInfo tensor_from(Bytes& bytes, const Mesh& mesh) {
  static constexpr std::array kDtypes = {"f32", "i64", "b8"};
  TensorInfo tensor;
  tensor.sizes = bytes.sizes(/*max_dims=*/5);
  tensor.strides = contiguous_strides(tensor.sizes);
  tensor.dtype = bytes.pick(kDtypes);
  tensor.is_summable = tensor.dtype[0] == 'f';
  tensor.layout = bytes.layout(mesh, tensor.sizes, tensor.is_summable);
  return tensor;
}

Arg value_from(Bytes& bytes) {
  Arg arg;
  switch (bytes.below(6)) {
    case 0:
      break;
    case 1:
      arg.kind = ArgKind::kBool;
      arg.integer = bytes.below(2);
      break;
    case 2:
      arg.kind = ArgKind::kString;
      arg.text = "mean";
      break;
    case 3:
      arg.kind = ArgKind::kInt;
      arg.integer = bytes.below(16) - 4;
      break;
    default:
      arg.kind = ArgKind::kIntList;
      for (int64_t i = bytes.below(6); i > 0; --i) {
        arg.ints.push_back(bytes.below(16) - 3);
      }
  }
  return arg;
}

// The names of parameters that a rule speaks of.
std::set<std::string> names_in(const std::vector<Alternative>& alternatives) {
  std::set<std::string> names;
  for (const Alternative& alternative : alternatives) {
    for (const Modifier& modifier : alternative.modifiers) {
      for (const std::string& arg : modifier.args) {
        for (std::string word : rules::words_of(arg)) {
          word = word.substr(0, word.find_first_of("!="));
          if (word.size() > 1 && !rules::is_token_name(word)) {
            names.insert(word);
          }
        }
      }
    }
  }
  return names;
}

// A call whose parameters the rule may know: tensors first.
class Call {
 public:
  Call(
      Bytes& bytes,
      const Mesh& mesh,
      const std::vector<Alternative>& alternatives) {
    schema_.name = "fuzz::op";
    size_t num_tensors = bytes.below(4);
    if (bytes.below(4) != 0) {
      num_tensors = bytes.pick(alternatives).inputs.size();
    }
    for (size_t i = 0; i < num_tensors; ++i) {
      const bool is_list = bytes.below(6) == 0;
      Arg arg;
      arg.kind = is_list ? ArgKind::kTensorList : ArgKind::kTensor;
      for (int64_t n = is_list ? bytes.below(4) : 1; n > 0; --n) {
        arg.tensors.push_back(tensor_from(bytes, mesh));
        // Often equal: or else few rules fit.
        if (i > 0 && !call_.args[0].tensors.empty() && bytes.flip()) {
          arg.tensors.back() = call_.args[0].tensors[0];
        }
        arg.present.push_back(true);
      }
      OpSchema::Param param;
      param.name = "t" + std::to_string(i);
      param.is_tensor = !is_list;
      param.is_tensor_list = is_list;
      add(param, arg);
    }
    for (const std::string& name : names_in(alternatives)) {
      if (bytes.below(8) != 0) {
        OpSchema::Param param;
        param.name = name;
        add(param, value_from(bytes));
      }
    }
    OpSchema::Param result;
    result.is_tensor = true;
    schema_.returns.assign(bytes.pick(alternatives).outputs.size(), result);
    if (bytes.below(6) == 0) {
      schema_.returns.assign(1, {});
      schema_.returns[0].is_tensor_list = true;
    }
    call_.schema = &schema_;
  }
  Call(const Call&) = delete;

  const OpCall& get() const { return call_; }

 private:
  void add(const OpSchema::Param& param, const Arg& arg) {
    schema_.params.push_back(param);
    call_.args.push_back(arg);
  }

  OpSchema schema_;
  OpCall call_;
};

void check_resolved(
    const OpCall& call,
    const Resolved& resolved,
    const std::string& facts) {
  const int num_factors = static_cast<int>(resolved.factors.size());
  auto check_dim = [&](const std::vector<int>& dim) {
    for (int factor : dim) {
      require(factor >= 0 && factor < num_factors, facts, ": a factor");
    }
  };
  const std::vector<const TensorInfo*> tensors = call.tensors();
  if (resolved.is_program) {
    require(num_factors == 0 && resolved.inputs.empty(), facts, ": a program");
    return;
  }
  require(resolved.inputs.size() == tensors.size(), facts, ": inputs");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const DimFactors& dims = resolved.inputs[i];
    require(
        dims.size() == tensors[i]->sizes.size(), facts, ": dims of an input");
    for (size_t d = 0; d < dims.size(); ++d) {
      check_dim(dims[d]);
      int64_t size = 1;
      for (int factor : dims[d]) {
        size *= resolved.factors[factor].size;
      }
      require(
          size == tensors[i]->sizes[d] || dims[d].empty(),
          facts,
          ": size of a dim");
    }
  }
  require(
      resolved.contracted.size() == resolved.outputs.size(),
      facts,
      ": contracted");
  for (size_t o = 0; o < resolved.outputs.size(); ++o) {
    check_dim(resolved.contracted[o]);
    for (const std::vector<int>& dim : resolved.outputs[o]) {
      check_dim(dim);
      for (int factor : dim) {
        require(
            std::ranges::count(resolved.contracted[o], factor) == 0,
            facts,
            ": a dim of the result is contracted");
      }
    }
  }
  for (const std::vector<int>& set : resolved.linear) {
    for (int tensor : set) {
      require(
          tensor >= 0 && tensor < static_cast<int>(tensors.size()),
          facts,
          ": linear");
    }
  }
  for (const LocalSizes& sizes : resolved.local_sizes) {
    require(
        sizes.arg >= 0 && sizes.arg < static_cast<int>(call.args.size()),
        facts,
        ": a local argument");
  }
}

void check_plan_of(const OpCall& call, const Rule& rule) {
  const Plan plan = plan_op(call, &rule, {});
  const std::string facts = rule.str() + " planned " + plan.str();
  const std::vector<const TensorInfo*> tensors = call.tensors();
  require(plan.inputs.size() == tensors.size(), facts);
  for (size_t i = 0; i < tensors.size(); ++i) {
    check_layout(plan.inputs[i].redistribution.to, tensors[i]->sizes);
    require(plan.inputs[i].redistribution.num_bytes() >= 0, facts);
  }
  for (const Plan::Output& output : plan.outputs) {
    for (int64_t size : output.sizes) {
      require(size >= 0, facts, ": a negative size");
    }
    check_layout(output.layout, output.sizes);
  }
  require(plan.work >= 0, facts, ": negative work");
}

}  // namespace

void check_rule(Bytes& bytes) {
  const int64_t source = bytes.below(4);
  const std::string text = source == 0   ? bytes.text(40)
                           : source == 1 ? text_of_pieces(bytes)
                           : source == 2 ? changed_rule(bytes)
                                         : bytes.pick(rules_of_table());
  const std::shared_ptr<const Rule> rule = rule_of(text);
  if (!rule) {
    return;
  }
  const Mesh mesh = bytes.mesh(/*max_axes=*/2, /*max_devices=*/8);
  const Call call(bytes, mesh, rules::parse_notation(text));
  Resolved resolved;
  if (rule->resolve(call.get(), resolved)) {
    check_resolved(call.get(), resolved, rule->str());
  }
  check_plan_of(call.get(), *rule);
}

}  // namespace torch_mesh::fuzz

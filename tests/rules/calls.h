// calls.h: calls of ops as text, for the tests of rules.

#pragma once

#include <cctype>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <torch_mesh/rule.h>

#include "rules/op_call.h"

namespace torch_mesh::testing {

// A call of a made-up op.
//
//   Call("self:f32[8,4] dim:[-1] keepdim:true")
//
// Parameters are `name:value` in the order of the schema. Values: a tensor
// `f32[8,4]` (`f32[]` for 0-d), a list of tensors `{f32[2],-,f32[]}` (-
// absent), `none` (`none_tensor` for an absent tensor), `true`, `7`, `[1,2]`,
// `'text'`. A name that ends with ! is written, and is returned.
class Call {
 public:
  explicit Call(const std::string& text, const std::string& name = "my::op") {
    schema_.name = name;
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      add(word);
    }
    if (schema_.returns.empty()) {
      OpSchema::Param result;
      result.is_tensor = true;
      schema_.returns.push_back(result);
    }
    call_.schema = &schema_;
  }
  Call(const Call&) = delete;

  Call& returns(size_t num) {
    schema_.returns.resize(num, schema_.returns[0]);
    return *this;
  }
  Call& returns_list() {
    schema_.returns[0].is_tensor = false;
    schema_.returns[0].is_tensor_list = true;
    return *this;
  }
  // What the op itself says of its results.
  Call& gives(std::vector<std::vector<int64_t>> sizes) {
    call_.result_sizes = [sizes] { return std::optional(sizes); };
    return *this;
  }
  const OpCall& get() const { return call_; }

 private:
  static std::vector<int64_t> numbers(const std::string& text) {
    std::vector<int64_t> values;
    std::istringstream list(text);
    for (std::string item; std::getline(list, item, ',');) {
      values.push_back(std::stoll(item));
    }
    return values;
  }

  static TensorInfo tensor(const std::string& text) {
    TensorInfo info;
    const size_t open = text.find('[');
    const std::string dtype = text.substr(0, open);
    info.dtype = dtype == "f32" ? "f32" : dtype == "b8" ? "b8" : "i64";
    info.is_summable = dtype == "f32";
    info.sizes = numbers(text.substr(open + 1, text.size() - open - 2));
    info.strides.assign(info.sizes.size(), 1);
    return info;
  }

  void add(const std::string& word) {
    const size_t colon = word.find(':');
    OpSchema::Param param;
    param.name = word.substr(0, colon);
    const std::string value = word.substr(colon + 1);
    if (param.name.back() == '!') {
      param.name.pop_back();
      param.is_written = true;
      param.alias = static_cast<int>(schema_.returns.size());
    }
    Arg arg;
    if (value == "none_tensor") {
      param.is_tensor = true;
    } else if (value == "true" || value == "false") {
      arg.kind = ArgKind::kBool;
      arg.integer = value == "true";
    } else if (value[0] == '[') {
      arg.kind = ArgKind::kIntList;
      arg.ints = numbers(value.substr(1, value.size() - 2));
    } else if (value[0] == '\'') {
      arg.kind = ArgKind::kString;
      arg.text = value.substr(1, value.size() - 2);
    } else if (value[0] == '{') {
      param.is_tensor_list = true;
      add_list(arg, value);
    } else if (value[0] == '-' || std::isdigit(value[0]) != 0) {
      arg.kind = ArgKind::kInt;
      arg.integer = std::stoll(value);
    } else if (value != "none") {
      param.is_tensor = true;
      arg.kind = ArgKind::kTensor;
      arg.tensors.push_back(tensor(value));
    }
    if (param.is_written) {
      schema_.returns.push_back(param);
    }
    schema_.params.push_back(param);
    call_.args.push_back(arg);
  }

  static void add_list(Arg& arg, const std::string& value) {
    arg.kind = ArgKind::kTensorList;
    std::string item;
    int depth = 0;
    for (const char c : value.substr(1)) {
      depth += (c == '[') - (c == ']');
      if ((c != ',' && c != '}') || depth > 0) {
        item += c;
        continue;
      }
      arg.present.push_back(item != "-");
      if (item != "-") {
        arg.tensors.push_back(tensor(item));
      }
      item.clear();
    }
  }

  OpSchema schema_;
  OpCall call_;
};

// "m k, k n -> m n; sums k" with the names of factors; a whole one as `m!`, a
// rewritten one as `m?`, a merged dim as `(b t)`, a dim without factors as `1`.
inline std::string text_of(const Resolved& resolved) {
  auto name = [&](int f) {
    const Factor& factor = resolved.factors[f];
    return factor.name + (factor.kind == Factor::Kind::kWhole     ? "!"
                          : factor.kind == Factor::Kind::kRewrite ? "?"
                                                                  : "");
  };
  auto tensors = [&](const std::vector<DimFactors>& all) {
    std::string text;
    for (size_t t = 0; t < all.size(); ++t) {
      text += t == 0 ? "" : ", ";
      text += all[t].empty() ? "." : "";
      for (size_t d = 0; d < all[t].size(); ++d) {
        text += d == 0 ? "" : " ";
        std::string dim;
        for (int f : all[t][d]) {
          dim += (dim.empty() ? "" : " ") + name(f);
        }
        text += all[t][d].empty()       ? "1"
                : all[t][d].size() == 1 ? dim
                                        : "(" + dim + ")";
      }
    }
    return text;
  };
  std::string text =
      tensors(resolved.inputs) + " -> " + tensors(resolved.outputs);
  for (size_t o = 0; o < resolved.contracted.size(); ++o) {
    for (int f : resolved.contracted[o]) {
      text += "; " + std::to_string(o) + " sums " + name(f);
    }
  }
  return text;
}

// What a rule says of a call, or "misfit".
inline std::string resolved_text(const std::string& rule, const Call& call) {
  Resolved resolved;
  return Rule::parse(rule)->resolve(call.get(), resolved) ? text_of(resolved)
                                                          : "misfit";
}

// The same for the rule in the table.
inline std::string table_text(const std::string& op, const Call& call) {
  const auto rule = find_rule(op);
  Resolved resolved;
  return !rule                                 ? "no rule"
         : rule->resolve(call.get(), resolved) ? text_of(resolved)
                                               : "misfit";
}

}  // namespace torch_mesh::testing

// modifiers.cpp: the table of modifiers, and those that only mark factors.

#include "rules/modifiers.h"

#include <algorithm>
#include <map>
#include <set>

namespace torch_mesh::rules {
namespace {

// c10::ScalarType of bool and the integer types up to int64, which alone do not
// hold a sum of parts.
bool is_floating(int64_t dtype) {
  return (dtype >= 5 && dtype <= 10) || dtype == 15;
}

bool is_mask(const TensorInfo& tensor) {
  const std::string dtype = tensor.dtype;
  return dtype == "b8" || dtype == "u8";
}

bool is_all_digits(const std::string& word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return c >= '0' && c <= '9';
  });
}

bool holds_one(const OpCall& call, const std::string& condition) {
  size_t equals = condition.find('=');
  const bool negated = equals > 0 && condition[equals - 1] == '!';
  const std::string name = condition.substr(0, equals - (negated ? 1 : 0));
  const std::string value = condition.substr(equals + 1);
  const int index = call.schema->param(name);
  // A parameter that an overload lacks is None.
  static const Arg none;
  const Arg& arg = index < 0 ? none : call.args[index];
  bool equal = false;
  if (value == "masks") {
    equal = has_masks(arg);
  } else if (value == "None") {
    equal = arg.is_none();
  } else if (value == "floating") {
    equal = arg.is_none() ||
            (arg.kind == ArgKind::kInt && is_floating(arg.integer));
  } else if (value == "[]") {
    equal = arg.kind == ArgKind::kIntList && arg.ints.empty();
  } else if (arg.kind == ArgKind::kBool) {
    equal = value == (arg.integer != 0 ? "true" : "false");
  } else if (arg.kind == ArgKind::kInt) {
    equal = value == std::to_string(arg.integer);
  } else if (arg.kind == ArgKind::kString) {
    equal = value == arg.text;
  }
  return equal != negated;
}

// Marks what letters, groups, literal dims and arguments name.
bool mark(Binding& binding, const Args& args, Factor::Kind kind) {
  for (const std::string& arg : args) {
    for (const std::string& word : words_of(arg)) {
      if (const DimFactors* dims = binding.dims(word)) {
        for (const std::vector<int>& dim : *dims) {
          binding.make(dim, kind);
        }
        continue;
      }
      if (is_token_name(word)) {
        continue;  // The letter of an optional tensor that is absent.
      }
      if (!word.empty() && word[0] == '-') {
        const auto n = static_cast<int64_t>(binding.left().size());
        if (auto dim = binding.dim(word, n)) {
          binding.make(binding.left()[*dim], kind);
        }
        continue;
      }
      const auto named = binding.named_dims(word);
      if (!named) {
        return false;
      }
      for (size_t d = 0; d < named->size(); ++d) {
        if ((*named)[d]) {
          binding.make(binding.left()[d], kind);
        }
      }
    }
  }
  return true;
}

bool make_whole(Binding& binding, const Args& args) {
  return mark(binding, args, Factor::Kind::kWhole);
}

bool make_rewritten(Binding& binding, const Args& args) {
  return mark(binding, args, Factor::Kind::kRewrite);
}

// Takes the dims that the first argument names off the right side.
bool reduce(Binding& binding, const Args& args, Factor::Kind kind) {
  const auto named = binding.named_dims(args[0]);
  if (!named) {
    return false;
  }
  const bool keep = args.size() > 1 && binding.flag(args[1]);
  DimFactors result;
  for (size_t d = 0; d < named->size(); ++d) {
    if (!(*named)[d]) {
      result.push_back(binding.right()[d]);
      continue;
    }
    if (kind != Factor::Kind::kPass) {
      binding.make(binding.left()[d], kind);
    }
    if (keep) {
      result.emplace_back();
    }
  }
  binding.right() = std::move(result);
  return true;
}

bool reduce_sum(Binding& binding, const Args& args) {
  return reduce(binding, args, Factor::Kind::kPass);
}

bool reduce_whole(Binding& binding, const Args& args) {
  return reduce(binding, args, Factor::Kind::kWhole);
}

bool reduce_rewritten(Binding& binding, const Args& args) {
  return reduce(binding, args, Factor::Kind::kRewrite);
}

// Lays the elements of an argument over letters and groups: binds those that
// are new, compares the others, and makes the argument local.
bool take_sizes(Binding& binding, const Args& args) {
  const Arg* arg = binding.find_arg(args[1]);
  const auto values = binding.ints(args[1]);
  const std::vector<std::string> words = words_of(args[0]);
  // size(o, bias_sizes, 0): [0] says nothing.
  const bool says_nothing =
      args.size() == 3 && values &&
      *values == binding.ints(args[2]).value_or(std::vector<int64_t>());
  if (!arg || !values || says_nothing) {
    return std::all_of(words.begin(), words.end(), [&](const auto& word) {
      return binding.is_bound(word);
    });
  }
  std::vector<LocalSizes::Element> elements;
  if (arg->kind == ArgKind::kInt || values->size() == 1) {
    elements.emplace_back();
    for (const std::string& word : words) {
      if (words.size() == 1 && !binding.is_bound(word)) {
        binding.set_dims(word, {{binding.add_factor(word, (*values)[0])}});
      }
      const DimFactors* dims = binding.dims(word);
      if (!dims) {
        return false;
      }
      for (const std::vector<int>& dim : *dims) {
        auto& factors = elements[0].factors;
        factors.insert(factors.end(), dim.begin(), dim.end());
      }
    }
    if (binding.size_of(elements[0].factors) != (*values)[0]) {
      return false;
    }
    binding.localise(args[1], std::move(elements));
    return true;
  }
  size_t rest = values->size();
  for (const std::string& word : words) {
    const DimFactors* dims = binding.dims(word);
    rest -= dims ? dims->size() : 0;
  }
  size_t next = 0;
  for (const std::string& word : words) {
    if (!binding.is_bound(word)) {
      DimFactors dims;
      const size_t length = word.ends_with('*') ? rest : 1;
      if (length == 1 && next >= values->size()) {
        return false;
      }
      for (size_t d = 0; d < length && next + d < values->size(); ++d) {
        dims.push_back(
            {binding.add_factor(
                word.substr(0, 1) + (length == 1 ? "" : std::to_string(d)),
                (*values)[next + d])});
      }
      binding.set_dims(word, std::move(dims));
    }
    for (const std::vector<int>& dim : *binding.dims(word)) {
      if (next >= values->size() || binding.size_of(dim) != (*values)[next]) {
        return false;
      }
      elements.push_back({dim, false});
      ++next;
    }
  }
  if (next != values->size()) {
    return false;
  }
  binding.localise(args[1], std::move(elements));
  return true;
}

// The argument grows by where a device's part of the first letter begins, and
// falls by where that of the second does.
bool shift_argument(Binding& binding, const Args& args) {
  const Arg* arg = binding.find_arg(args[0]);
  if (!arg || arg->kind != ArgKind::kInt) {
    return false;
  }
  LocalSizes::Element element;
  element.keep = true;
  for (size_t a = 1; a < args.size(); ++a) {
    const DimFactors* dims = binding.dims(args[a]);
    if (!dims || (*dims)[0].size() > 1) {
      return false;
    }
    (a == 1 ? element.up : element.down) = (*dims)[0];
  }
  binding.localise(args[0], {std::move(element)});
  return true;
}

// All tensors have the sizes of the main group: nothing broadcasts.
bool require_same(Binding& binding, const Args&) {
  std::vector<int64_t> sizes;
  for (const std::vector<int>& dim : binding.left()) {
    sizes.push_back(binding.size_of(dim));
  }
  for (const TensorInfo* tensor : binding.call().tensors()) {
    if (tensor->dim() != 0 && tensor->sizes != sizes) {
      return false;
    }
  }
  return true;
}

bool nothing(Binding&, const Args&) { return true; }

// Words about the kernels of an op, which do not touch how it shards.
bool of_kernels(Binding&, const Args&) { return true; }

struct Entry {
  bool (*apply)(Binding&, const Args&);
  size_t min_args;
  size_t max_args;
  // Whether arguments count dims, so that the first term must be one group.
  bool needs_group;
};

constexpr size_t kMany = 100;

const std::map<std::string, Entry>& table() {
  static const auto* table = new std::map<std::string, Entry>{
      {"adds", {nothing, 1, kMany, false}},
      {"along", {align_along, 1, 2, true}},
      {"bears_overlap", {of_kernels, 0, 0, false}},
      {"checked", {nothing, 0, 0, false}},
      {"contiguous_out", {of_kernels, 0, 0, false}},
      {"convolves", {convolve, 3, 3, false}},
      {"diagonals", {take_diagonal, 3, 3, true}},
      {"divides", {of_kernels, 0, 0, false}},
      {"dims", {nothing, 2, 2, false}},
      {"expands", {expand_dims, 1, 1, true}},
      {"filled", {nothing, 0, 0, false}},
      {"indexes", {index_by, 2, 3, true}},
      {"joins", {join_dim, 1, 1, true}},
      {"keeps_format", {of_kernels, 0, 0, false}},
      {"like_view", {of_kernels, 0, 0, false}},
      {"linear", {nothing, 1, kMany, false}},
      {"overwrites", {of_kernels, 0, 0, false}},
      {"pads", {pad_dims, 1, 1, true}},
      {"permutes", {permute_dims, 1, 1, true}},
      {"program", {nothing, 0, 0, false}},
      {"random", {nothing, 0, 0, false}},
      {"reduces", {reduce_sum, 1, 2, true}},
      {"reduces_whole", {reduce_whole, 1, 2, true}},
      {"refuses_overlap", {of_kernels, 0, 0, false}},
      {"remakes", {remake_dims, 1, 1, true}},
      {"repeats", {repeat_dims, 1, 1, true}},
      {"resizes", {resize_dim, 2, 2, true}},
      {"restores", {restore_dims, 2, 3, true}},
      {"rewrites", {reduce_rewritten, 1, 2, true}},
      {"rewritten", {make_rewritten, 1, kMany, false}},
      {"same", {require_same, 0, 0, true}},
      {"selects", {select_dim, 1, 1, true}},
      {"size", {take_sizes, 2, 3, false}},
      {"shifts", {shift_argument, 2, 3, false}},
      {"slices", {slice_dim, 4, 4, true}},
      {"splits", {split_dim, 2, 2, true}},
      {"squeezes", {squeeze_dims, 1, 1, true}},
      {"stacks", {stack_dim, 1, 1, true}},
      {"strided", {of_kernels, 0, 0, false}},
      {"swaps", {swap_dim, 3, 3, true}},
      {"transposes", {transpose_dims, 2, 2, true}},
      {"unbinds", {unbind_dim, 1, 1, true}},
      {"unfolds", {unfold_dim, 3, 3, true}},
      {"unselects", {unselect_dim, 2, 2, true}},
      {"unslices", {unslice_dim, 5, 5, true}},
      {"unsqueezes", {unsqueeze_dim, 1, 1, true}},
      {"view", {view_as, 1, 1, true}},
      {"when", {nothing, 1, kMany, false}},
      {"whole", {make_whole, 1, kMany, false}},
      {"window", {slide_window, 6, 7, false}},
  };
  return *table;
}

bool is_of_kernels(const std::string& word) {
  const auto found = table().find(word);
  return found != table().end() && found->second.apply == of_kernels;
}

void collect_names(const Term& term, std::set<std::string>& names) {
  for (const std::vector<Token>* tokens : {&term.dims, &term.independent}) {
    for (const Token& token : *tokens) {
      if (!token.name.empty()) {
        names.insert(token.name);
      }
      names.insert(token.letters.begin(), token.letters.end());
    }
  }
}

// Letters that the modifier takes as arguments.
std::vector<std::string> letters_of(const Modifier& modifier) {
  std::vector<std::string> letters;
  auto add = [&](const std::string& arg) {
    for (const std::string& word : words_of(arg)) {
      if (is_token_name(word)) {
        letters.push_back(word);
      }
    }
  };
  if (modifier.name == "whole" || modifier.name == "rewritten") {
    std::for_each(modifier.args.begin(), modifier.args.end(), add);
  } else if (modifier.name == "size" || modifier.name == "dims") {
    add(modifier.args[0]);
  } else if (modifier.name == "shifts") {
    std::for_each(modifier.args.begin() + 1, modifier.args.end(), add);
  } else if (modifier.name == "convolves" || modifier.name == "window") {
    std::for_each(
        modifier.args.begin(),
        modifier.args.begin() + (modifier.name == "window" ? 2 : 3),
        add);
  }
  return letters;
}

}  // namespace

std::string problem_of_modifier(const Alternative& alternative) {
  const Modifier& modifier = alternative.modifiers.back();
  auto found = table().find(modifier.name);
  if (found == table().end()) {
    return "has no modifier \"" + modifier.name + "\" to know";
  }
  const Entry& entry = found->second;
  if (modifier.args.size() < entry.min_args ||
      modifier.args.size() > entry.max_args) {
    return "gives " + modifier.name + " " +
           std::to_string(modifier.args.size()) + " arguments, it takes " +
           std::to_string(entry.min_args);
  }
  if (entry.needs_group && alternative.main_group().empty()) {
    return "uses " + modifier.name +
           ", but its first term is not a single group such as x*";
  }
  if (modifier.name == "whole" || modifier.name == "rewritten") {
    for (const std::string& arg : modifier.args) {
      for (const std::string& word : words_of(arg)) {
        if (!is_token_name(word) && alternative.main_group().empty()) {
          return "names the dim \"" + word +
                 "\", but its first term is not a single group such as x*";
        }
      }
    }
  }
  std::set<std::string> names;
  for (const auto* terms : {&alternative.inputs, &alternative.outputs}) {
    for (const Term& term : *terms) {
      collect_names(term, names);
    }
  }
  for (const std::string& letter : letters_of(modifier)) {
    if (!names.count(letter)) {
      return "uses \"" + letter + "\", which no term has";
    }
  }
  if (modifier.name == "linear" || modifier.name == "adds") {
    const bool repeats =
        !alternative.inputs.empty() && alternative.inputs.back().repeats;
    for (const std::string& arg : modifier.args) {
      for (const std::string& word : words_of(arg)) {
        if (word != "*" &&
            (!is_all_digits(word) || word.size() > 2 ||
             (!repeats && std::stoul(word) >= alternative.inputs.size()))) {
          return "has no input " + word;
        }
      }
    }
  }
  if (modifier.name == "when") {
    for (const std::string& arg : modifier.args) {
      const size_t equals = arg.find('=');
      if (equals == std::string::npos || equals == 0) {
        return "has the condition \"" + arg + "\" without a value";
      }
    }
  }
  return "";
}

std::vector<std::string> parse_kernel_words(std::string_view text) {
  std::vector<std::string> words = words_of(std::string(text));
  for (const std::string& word : words) {
    if (!is_of_kernels(word)) {
      raise_rule_text(
          text,
          text.find(word),
          "has no word \"" + word + "\" about kernels to know",
          "docs/notation.md lists them");
    }
  }
  return words;
}

std::vector<std::string> kernel_words_in(std::string_view text) {
  std::string apart(text);
  std::replace(apart.begin(), apart.end(), '|', ' ');
  std::vector<std::string> words = words_of(apart);
  std::erase_if(words, [](const auto& word) { return !is_of_kernels(word); });
  return words;
}

bool has_masks(const Arg& indices) {
  return std::any_of(indices.tensors.begin(), indices.tensors.end(), is_mask);
}

bool apply_modifier(Binding& binding, const Modifier& modifier) {
  return table().at(modifier.name).apply(binding, modifier.args);
}

bool holds(const OpCall& call, const Modifier& when) {
  return std::all_of(
      when.args.begin(), when.args.end(), [&](const std::string& condition) {
        return holds_one(call, condition);
      });
}

}  // namespace torch_mesh::rules

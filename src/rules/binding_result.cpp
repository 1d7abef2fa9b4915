// binding_result.cpp: what a bound rule says of its call, read off.

#include <algorithm>
#include <map>
#include <set>

#include "rules/binding.h"

namespace torch_mesh::rules {

bool Binding::result(Resolved& out) {
  out = Resolved();
  for (size_t i = 0; i < bound_.size(); ++i) {
    out.inputs.emplace_back();
    if (!bound_[i].is_out && !dims_of_input(i, out.inputs.back())) {
      return false;
    }
  }
  if (!emit_outputs(out) || !emit_out_arguments(out)) {
    return false;
  }
  if (rule_.modifier("checked") && !agrees_with_op(out)) {
    return false;
  }
  std::set<int> read;
  for (const DimFactors& dims : out.inputs) {
    for (const std::vector<int>& dim : dims) {
      read.insert(dim.begin(), dim.end());
    }
  }
  for (size_t f = 0; f < factors_.size(); ++f) {
    if (factors_[f].size < 0) {
      return false;  // An argument gives a size that torch refuses.
    }
    if (!read.count(static_cast<int>(f))) {
      factors_[f].kind = Factor::Kind::kWhole;
    }
  }
  out.local_sizes = local_sizes_;
  out.filled = rule_.modifier("filled") != nullptr;
  emit_contracted(out);
  emit_sets(out);
  const bool fits = keeps_written_sizes(out);
  emit_factors(out);
  return fits;
}

// The dims that a tensor of these sizes has of `dims`: aligned from the right,
// and none where size 1 stands against a larger one.
std::optional<DimFactors> Binding::aligned(
    const DimFactors& dims,
    const std::vector<int64_t>& sizes) const {
  if (sizes.size() > dims.size()) {
    return std::nullopt;
  }
  DimFactors result;
  const size_t shift = dims.size() - sizes.size();
  for (size_t d = 0; d < sizes.size(); ++d) {
    const std::vector<int>& dim = dims[shift + d];
    const bool same = size_of(dim) == sizes[d];
    if (!same && sizes[d] != 1) {
      return std::nullopt;
    }
    result.push_back(same ? dim : std::vector<int>());
  }
  return result;
}

bool Binding::dims_of_input(size_t index, DimFactors& out) {
  const Bound& bound = bound_[index];
  const TensorInfo& tensor = *tensors_[index];
  if (bound.term->is_replicated) {
    for (int64_t size : tensor.sizes) {
      out.push_back(whole_dim(size));
    }
    return true;
  }
  if (bound.term->broadcasts) {
    DimFactors all;
    if (!dims_of_term(*bound.term, /*on_right=*/false, all)) {
      return false;
    }
    auto dims = aligned(all, tensor.sizes);
    out = dims.value_or(DimFactors());
    return dims.has_value();
  }
  const std::optional<int64_t> joined = joined_dim();
  if (is_skipped(tensor)) {
    out = {whole_dim(0)};
    return true;
  }
  for (size_t t = 0; t < bound.segments.size(); ++t) {
    const Token& token = bound.term->dims[t];
    DimFactors all;
    if (!dims_of_token(token, /*on_right=*/false, all)) {
      return false;
    }
    if (joined && token.name == main_) {
      const std::vector<int64_t>& sizes = bound.segments[t];
      if (sizes.size() != all.size() ||
          *joined >= static_cast<int64_t>(sizes.size())) {
        return false;
      }
      all[*joined] = whole_dim(sizes[*joined]);
      for (size_t d = 0; d < all.size(); ++d) {
        if (size_of(all[d]) != sizes[d]) {
          return false;
        }
      }
    }
    auto dims = aligned(all, bound.segments[t]);
    if (!dims) {
      return false;
    }
    out.insert(out.end(), dims->begin(), dims->end());
  }
  return true;
}

bool Binding::dims_of_term(const Term& term, bool on_right, DimFactors& out) {
  return std::all_of(
      term.dims.begin(), term.dims.end(), [&](const Token& token) {
        return dims_of_token(token, on_right, out);
      });
}

bool Binding::dims_of_token(
    const Token& token,
    bool on_right,
    DimFactors& out) {
  switch (token.kind) {
    case Token::Kind::kSize:
      out.push_back(whole_dim(token.size));
      return true;
    case Token::Kind::kOnes: {
      const DimFactors* dims = this->dims(token.name);
      if (dims) {
        out.insert(out.end(), dims->size(), {});
      }
      return dims != nullptr;
    }
    case Token::Kind::kMerged: {
      std::vector<int> merged;
      for (const std::string& letter : token.letters) {
        const DimFactors* dims = this->dims(letter);
        if (!dims) {
          return false;
        }
        merged.insert(merged.end(), (*dims)[0].begin(), (*dims)[0].end());
      }
      out.push_back(std::move(merged));
      return true;
    }
    default: {
      const DimFactors* dims =
          on_right && token.name == main_ ? &right_ : this->dims(token.name);
      if (dims) {
        out.insert(out.end(), dims->begin(), dims->end());
      }
      return dims != nullptr;
    }
  }
}

bool Binding::emit_outputs(Resolved& out) {
  // A number that the devices' parts give is not the whole's, as of `equal`.
  for (const OpSchema::Param& returned : call_.schema->returns) {
    if (!returned.is_tensor && !returned.is_tensor_list) {
      return false;
    }
  }
  for (size_t o = 0; o < rule_.outputs.size(); ++o) {
    const Term& term = rule_.outputs[o];
    if (term.repeats) {
      for (size_t r = o; r < call_.schema->returns.size(); ++r) {
        if (!add_output(rule_.outputs[o - 1], out)) {
          return false;
        }
      }
      continue;
    }
    if (!term.is_list) {
      if (!add_output(term, out)) {
        return false;
      }
      continue;
    }
    if (!pieces_) {
      return false;
    }
    for (const DimFactors& piece : *pieces_) {
      out.outputs.push_back(piece);
      independent_.emplace_back();
    }
  }
  const auto& returns = call_.schema->returns;
  return out.outputs.size() == returns.size() ||
         (returns.size() == 1 && returns[0].is_tensor_list);
}

const std::vector<int64_t>* Binding::sizes_of_result(size_t o) {
  if (!result_sizes_) {
    result_sizes_ = call_.result_sizes ? call_.result_sizes() : std::nullopt;
    if (!result_sizes_) {
      result_sizes_.emplace();
    }
  }
  return o < result_sizes_->size() ? &(*result_sizes_)[o] : nullptr;
}

// Letters and groups that stand right of the arrow only, and that nothing else
// says the size of, have the sizes that the op itself gives its result. They
// are whole.
bool Binding::bind_new_dims(const Term& term, size_t output) {
  auto is_new = [&](const Token& token) {
    const bool is_dims =
        token.kind == Token::Kind::kLetter || token.kind == Token::Kind::kGroup;
    return is_dims && token.name != main_ && !is_bound(token.name);
  };
  if (std::none_of(term.dims.begin(), term.dims.end(), is_new)) {
    return true;
  }
  const std::vector<int64_t>* sizes = sizes_of_result(output);
  if (!sizes) {
    return false;
  }
  auto length = [&](const Token& token) -> std::optional<size_t> {
    if (token.kind == Token::Kind::kGroup || token.kind == Token::Kind::kOnes) {
      return is_new(token)         ? std::nullopt
             : token.name == main_ ? std::optional(right_.size())
                                   : std::optional(dims(token.name)->size());
    }
    return 1;
  };
  size_t known = 0;
  size_t groups = 0;
  for (const Token& token : term.dims) {
    known += length(token).value_or(0);
    groups += !length(token);
  }
  if (groups > 1 || known > sizes->size()) {
    return false;
  }
  auto next = sizes->begin();
  for (const Token& token : term.dims) {
    const size_t count = length(token).value_or(sizes->size() - known);
    if (is_new(token)) {
      DimFactors dims;
      std::for_each(
          next, next + static_cast<std::ptrdiff_t>(count), [&](auto n) {
            dims.push_back(whole_dim(n));
          });
      set_dims(token.name, std::move(dims));
    }
    next += static_cast<std::ptrdiff_t>(count);
  }
  return next == sizes->end();
}

bool Binding::add_output(const Term& term, Resolved& out) {
  if (!bind_new_dims(term, out.outputs.size())) {
    return false;
  }
  out.outputs.emplace_back();
  independent_.emplace_back();
  for (const Token& token : term.independent) {
    DimFactors dims;
    if (!dims_of_token(token, /*on_right=*/false, dims)) {
      return false;
    }
    for (const std::vector<int>& dim : dims) {
      independent_.back().insert(
          independent_.back().end(), dim.begin(), dim.end());
    }
  }
  return dims_of_term(term, /*on_right=*/true, out.outputs.back());
}

// out= arguments look like the results.
bool Binding::emit_out_arguments(Resolved& out) {
  size_t next = 0;
  for (size_t i = 0; i < bound_.size(); ++i) {
    if (!bound_[i].is_out) {
      continue;
    }
    if (next >= out.outputs.size() ||
        out.outputs[next].size() != tensors_[i]->sizes.size()) {
      return false;
    }
    out.inputs[i] = out.outputs[next++];
    for (size_t d = 0; d < out.inputs[i].size(); ++d) {
      if (size_of(out.inputs[i][d]) != tensors_[i]->sizes[d]) {
        return false;
      }
    }
  }
  return true;
}

// checked: the results have the sizes that the op itself gives them.
bool Binding::agrees_with_op(const Resolved& out) {
  for (size_t o = 0; o < out.outputs.size(); ++o) {
    const std::vector<int64_t>* sizes = sizes_of_result(o);
    const DimFactors& dims = out.outputs[o];
    if (!sizes || sizes->size() != dims.size()) {
      return false;
    }
    for (size_t d = 0; d < dims.size(); ++d) {
      if (size_of(dims[d]) != (*sizes)[d]) {
        return false;
      }
    }
  }
  return true;
}

// What an in-place op returns has the sizes of what it writes.
bool Binding::keeps_written_sizes(const Resolved& out) const {
  const auto& returns = call_.schema->returns;
  for (size_t o = 0; o < returns.size() && o < out.outputs.size(); ++o) {
    for (size_t p = 0; p < call_.args.size() && returns[o].is_written; ++p) {
      const OpSchema::Param& param = call_.schema->params[p];
      if (!param.is_written || param.alias != returns[o].alias ||
          call_.args[p].kind != ArgKind::kTensor) {
        continue;
      }
      std::vector<int64_t> sizes;
      for (const std::vector<int>& dim : out.outputs[o]) {
        sizes.push_back(size_of(dim));
      }
      if (sizes != call_.args[p].tensors[0].sizes) {
        return false;
      }
    }
  }
  return true;
}

void Binding::emit_contracted(Resolved& out) {
  for (size_t o = 0; o < out.outputs.size(); ++o) {
    std::set<int> gone;
    for (size_t i = 0; i < out.inputs.size(); ++i) {
      for (const std::vector<int>& dim : out.inputs[i]) {
        gone.insert(dim.begin(), dim.end());
      }
    }
    auto keep = [&](const std::vector<int>& factors) {
      for (int factor : factors) {
        gone.erase(factor);
      }
    };
    std::for_each(out.outputs[o].begin(), out.outputs[o].end(), keep);
    keep(independent_[o]);
    out.contracted.emplace_back();
    for (int factor : gone) {
      if (factors_[factor].kind == Factor::Kind::kPass) {
        out.contracted.back().push_back(factor);
      }
    }
  }
}

// Factors that are used, numbered anew.
void Binding::emit_factors(Resolved& out) const {
  std::map<int, int> numbers;
  auto renumber = [&](std::vector<int>& factors) {
    for (int& factor : factors) {
      auto [found, is_new] =
          numbers.emplace(factor, static_cast<int>(out.factors.size()));
      if (is_new) {
        out.factors.push_back(factors_[factor]);
      }
      factor = found->second;
    }
  };
  for (auto* tensors : {&out.inputs, &out.outputs}) {
    for (DimFactors& dims : *tensors) {
      std::for_each(dims.begin(), dims.end(), renumber);
    }
  }
  std::for_each(out.contracted.begin(), out.contracted.end(), renumber);
  for (LocalSizes& sizes : out.local_sizes) {
    for (LocalSizes::Element& element : sizes.elements) {
      renumber(element.factors);
      renumber(element.up);
      renumber(element.down);
    }
  }
}

void Binding::emit_sets(Resolved& out) const {
  auto tensors_of = [&](const std::string& words) {
    std::vector<int> set;
    for (const std::string& word : words_of(words)) {
      for (size_t t = 0; t < call_.schema->params.size(); ++t) {
        if (word == "*" || word == std::to_string(t)) {
          const std::vector<int> some = tensors_of_param(t);
          set.insert(set.end(), some.begin(), some.end());
        }
      }
    }
    return set;
  };
  for (const Modifier& modifier : rule_.modifiers) {
    if (modifier.name != "linear" && modifier.name != "adds") {
      continue;
    }
    for (const std::string& words : modifier.args) {
      const std::vector<int> set = tensors_of(words);
      if (modifier.name == "adds") {
        out.adds.insert(out.adds.end(), set.begin(), set.end());
      } else if (!set.empty() &&
                 std::find(out.linear.begin(), out.linear.end(), set) ==
                     out.linear.end()) {
        out.linear.push_back(set);
      }
    }
  }
}

}  // namespace torch_mesh::rules

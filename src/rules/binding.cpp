// binding.cpp: the letters of a rule meet the sizes of a call.

#include "rules/binding.h"

#include <algorithm>
#include <charconv>

#include "rules/modifiers.h"

namespace torch_mesh::rules {
namespace {

std::optional<int64_t> literal(const std::string& word) {
  int64_t value = 0;
  auto [stop, error] =
      std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || stop != word.data() + word.size()) {
    return std::nullopt;
  }
  return value;
}

}  // namespace

Binding::Binding(const OpCall& call, const Alternative& alternative)
    : call_(call),
      rule_(alternative),
      main_(alternative.main_group()),
      tensors_(call.tensors()) {}

// --- arguments
// -----------------------------------------------------------------

const Arg* Binding::find_arg(const std::string& name) const {
  const int index = call_.schema->param(name);
  return index < 0 ? nullptr : &call_.args[index];
}

std::optional<std::vector<int64_t>> Binding::ints(
    const std::string& word) const {
  if (auto value = literal(word)) {
    return std::vector<int64_t>{*value};
  }
  const Arg* arg = find_arg(word);
  if (arg && (arg->kind == ArgKind::kInt || arg->kind == ArgKind::kBool)) {
    return std::vector<int64_t>{arg->integer};
  }
  if (arg && arg->kind == ArgKind::kIntList) {
    return arg->ints;
  }
  return std::nullopt;
}

std::optional<int64_t> Binding::integer(const std::string& word) const {
  const auto values = ints(word);
  return values && values->size() == 1 ? std::optional((*values)[0])
                                       : std::nullopt;
}

bool Binding::flag(const std::string& word) const {
  return integer(word).value_or(0) != 0;
}

std::optional<int64_t> Binding::dim(const std::string& word, int64_t n) const {
  const auto value = integer(word);
  if (!value || *value < -n || *value >= n) {
    return std::nullopt;
  }
  return *value < 0 ? *value + n : *value;
}

std::optional<std::vector<bool>> Binding::named_dims(
    const std::string& word) const {
  const auto main = left_.find(main_);
  if (main == left_.end()) {
    return std::nullopt;  // Its tensors are absent.
  }
  const auto n = static_cast<int64_t>(main->second.size());
  const Arg* arg = find_arg(word);
  if (arg && arg->kind != ArgKind::kNone && arg->kind != ArgKind::kInt &&
      arg->kind != ArgKind::kIntList) {
    return std::nullopt;
  }
  const auto values = ints(word);
  if (!values || values->empty()) {
    return std::vector<bool>(n, true);
  }
  std::vector<bool> named(n, false);
  for (int64_t value : *values) {
    // A 0-d tensor answers to dims 0 and -1.
    if (value < -std::max<int64_t>(n, 1) || value >= std::max<int64_t>(n, 1)) {
      return std::nullopt;
    }
    if (n > 0) {
      named[value < 0 ? value + n : value] = true;
    }
  }
  return named;
}

void Binding::localise(
    const std::string& word,
    std::vector<LocalSizes::Element> to) {
  local_sizes_.push_back({call_.schema->param(word), std::move(to)});
}

std::vector<int> Binding::tensors_of_param(size_t number) const {
  std::vector<int> found;
  for (size_t i = 0; i < bound_.size(); ++i) {
    if (bound_[i].number == static_cast<int>(number)) {
      found.push_back(static_cast<int>(i));
    }
  }
  return found;
}

// --- factors
// -------------------------------------------------------------------

int Binding::add_factor(const std::string& name, int64_t size) {
  factors_.push_back({name, size, Factor::Kind::kPass});
  return static_cast<int>(factors_.size()) - 1;
}

std::vector<int> Binding::whole_dim(int64_t size) {
  if (size == 1) {
    return {};
  }
  auto found = wholes_.find(size);
  if (found == wholes_.end()) {
    const int factor = add_factor(std::to_string(size), size);
    factors_[factor].kind = Factor::Kind::kWhole;
    found = wholes_.emplace(size, factor).first;
  }
  return {found->second};
}

int64_t Binding::size_of(const std::vector<int>& dim) const {
  int64_t size = 1;
  for (int factor : dim) {
    size *= factors_[factor].size;
  }
  return size;
}

void Binding::make(const std::vector<int>& dim, Factor::Kind kind) {
  for (int factor : dim) {
    if (factors_[factor].kind != Factor::Kind::kWhole) {
      factors_[factor].kind = kind;
    }
  }
}

void Binding::hold(const std::vector<int>& dim) {
  for (int factor : dim) {
    if (factors_[factor].kind == Factor::Kind::kPass) {
      factors_[factor].kind = Factor::Kind::kWhole;
    }
  }
}

bool Binding::unify(const std::vector<int>& dim, const std::vector<int>& with) {
  if (dim == with) {
    return true;
  }
  if (dim.size() != 1 || with.size() != 1 ||
      factors_[dim[0]].size != factors_[with[0]].size) {
    return false;
  }
  const int from = dim[0];
  const int to = with[0];
  if (factors_[from].kind == Factor::Kind::kWhole) {
    make(with, Factor::Kind::kWhole);
  }
  auto replace = [&](DimFactors& dims) {
    for (std::vector<int>& list : dims) {
      std::replace(list.begin(), list.end(), from, to);
    }
  };
  for (auto& [name, dims] : left_) {
    replace(dims);
  }
  replace(right_);
  return true;
}

DimFactors* Binding::dims(const std::string& name) {
  auto found = left_.find(name);
  return found == left_.end() ? nullptr : &found->second;
}

void Binding::set_dims(const std::string& name, DimFactors dims) {
  left_[name] = std::move(dims);
}

// --- binding
// -------------------------------------------------------------------

bool Binding::bind() {
  if (!assign_terms() || !pin_lengths()) {
    return false;
  }
  for (size_t i = 0; i < bound_.size(); ++i) {
    const Term* term = bound_[i].term;
    if (term && !term->broadcasts && !term->is_replicated &&
        !cut_segments(bound_[i], *tensors_[i])) {
      return false;
    }
  }
  if (!bind_letters() || !bind_groups() || !bind_merged()) {
    return false;
  }
  if (!main_.empty()) {
    right_ = left_[main_];
  }
  return true;
}

// Gives each tensor its term; tensors of out= arguments have none.
bool Binding::assign_terms() {
  const std::vector<Term>& terms = rule_.inputs;
  size_t next = 0;
  int number = 0;
  for (size_t p = 0; p < call_.schema->params.size(); ++p) {
    const OpSchema::Param& param = call_.schema->params[p];
    if (!param.is_tensor && !param.is_tensor_list) {
      continue;
    }
    Bound bound;
    bound.number = number++;
    if (next < terms.size()) {
      size_t index = next++;
      if (terms[index].repeats) {
        --next;
        --index;
      } else if (terms[index].is_list != param.is_tensor_list) {
        return false;
      }
      bound.term = &terms[index];
    } else if (param.is_written) {
      bound.is_out = true;
    } else {
      return false;
    }
    bound_.insert(bound_.end(), call_.args[p].tensors.size(), bound);
  }
  return next == terms.size() ||
         (next + 1 == terms.size() && terms[next].repeats);
}

// Letters and groups whose sizes, or number of dims, are arguments.
bool Binding::pin_lengths() {
  for (const Modifier& modifier : rule_.modifiers) {
    if (modifier.name == "dims") {
      const int64_t length = integer(modifier.args[1]).value_or(0);
      if (length < 0) {
        return false;
      }
      lengths_[modifier.args[0]] = length;
    }
    if (modifier.name != "size" || words_of(modifier.args[0]).size() != 1) {
      continue;
    }
    const std::string& word = modifier.args[0];
    const bool is_group = word.ends_with('*');
    const Arg* arg = find_arg(modifier.args[1]);
    const auto sizes = ints(modifier.args[1]);
    if (!sizes || !is_token_name(word) ||
        (is_group && arg && arg->kind != ArgKind::kIntList) ||
        (!is_group && arg && arg->kind != ArgKind::kInt)) {
      continue;
    }
    DimFactors dims;
    for (size_t d = 0; d < sizes->size(); ++d) {
      if ((*sizes)[d] < 0) {
        return false;
      }
      dims.push_back(
          {add_factor(
              is_group ? word.substr(0, word.size() - 1) + std::to_string(d)
                       : word,
              (*sizes)[d])});
    }
    lengths_[word] = static_cast<int64_t>(dims.size());
    left_[word] = std::move(dims);
  }
  return true;
}

// Cuts the dims of a tensor into the tokens of its term.
bool Binding::cut_segments(Bound& bound, const TensorInfo& tensor) {
  if (is_skipped(tensor)) {
    return true;
  }
  auto length = [&](const Token& token) -> std::optional<int64_t> {
    if (token.kind != Token::Kind::kGroup && token.kind != Token::Kind::kOnes) {
      return 1;
    }
    auto found = lengths_.find(token.name);
    return found == lengths_.end() ? std::nullopt
                                   : std::optional(found->second);
  };
  int64_t rest = tensor.dim();
  int unknown = 0;
  for (const Token& token : bound.term->dims) {
    rest -= length(token).value_or(0);
    unknown += !length(token).has_value();
  }
  if (rest < 0 || unknown > 1 || (unknown == 0 && rest != 0)) {
    return false;
  }
  auto next = tensor.sizes.begin();
  for (const Token& token : bound.term->dims) {
    const auto end = next + length(token).value_or(rest);
    bound.segments.emplace_back(next, end);
    const std::vector<int64_t>& sizes = bound.segments.back();
    if ((token.kind == Token::Kind::kSize && sizes[0] != token.size) ||
        (token.kind == Token::Kind::kOnes &&
         std::any_of(sizes.begin(), sizes.end(), [](int64_t size) {
           return size != 1;
         }))) {
      return false;
    }
    next = end;
  }
  return true;
}

bool Binding::bind_letter(const std::string& name, int64_t size) {
  if (const DimFactors* dims = this->dims(name)) {
    return size_of((*dims)[0]) == size;
  }
  left_[name] = {{add_factor(name, size)}};
  return true;
}

bool Binding::bind_letters() {
  for (const Bound& bound : bound_) {
    for (size_t t = 0; t < bound.segments.size(); ++t) {
      const Token& token = bound.term->dims[t];
      if (token.kind == Token::Kind::kLetter &&
          !bind_letter(token.name, bound.segments[t][0])) {
        return false;
      }
    }
  }
  return true;
}

// The dim along which a list is joined, where its tensors may differ.
std::optional<int64_t> Binding::joined_dim() const {
  const Modifier* joins = rule_.modifier("joins");
  if (!joins) {
    return std::nullopt;
  }
  int64_t n = 0;
  for (const TensorInfo* tensor : tensors_) {
    n = std::max(n, tensor->dim());
  }
  return dim(joins->args[0], n);
}

// A cat skips tensors of sizes [0] among others that have more dims.
bool Binding::is_skipped(const TensorInfo& tensor) const {
  return rule_.modifier("joins") && tensor.sizes == std::vector<int64_t>{0} &&
         std::any_of(tensors_.begin(), tensors_.end(), [](auto* other) {
           return other->dim() != 1;
         });
}

// Groups of one name broadcast against each other.
bool Binding::bind_groups() {
  const std::optional<int64_t> joined = joined_dim();
  std::map<std::string, std::vector<int64_t>> groups;
  for (const Bound& bound : bound_) {
    for (size_t t = 0; t < bound.segments.size(); ++t) {
      const Token& token = bound.term->dims[t];
      if (token.kind != Token::Kind::kGroup) {
        continue;
      }
      std::vector<int64_t> sizes = bound.segments[t];
      if (joined && token.name == main_ &&
          *joined < static_cast<int64_t>(sizes.size())) {
        sizes[*joined] = 1;
      }
      std::vector<int64_t>& group = groups[token.name];
      if (sizes.size() > group.size()) {
        group.insert(group.begin(), sizes.size() - group.size(), 1);
      }
      const size_t shift = group.size() - sizes.size();
      for (size_t d = 0; d < sizes.size(); ++d) {
        int64_t& size = group[shift + d];
        if (size != 1 && sizes[d] != 1 && size != sizes[d]) {
          return false;
        }
        size = size == 1 ? sizes[d] : size;
      }
    }
  }
  for (const auto& [name, sizes] : groups) {
    if (is_bound(name)) {
      continue;  // Compared when the inputs are read off.
    }
    DimFactors dims;
    for (size_t d = 0; d < sizes.size(); ++d) {
      dims.push_back(
          {add_factor(
              name.substr(0, name.size() - 1) + std::to_string(d), sizes[d])});
    }
    left_[name] = std::move(dims);
  }
  return true;
}

bool Binding::bind_merged() {
  for (const Bound& bound : bound_) {
    for (size_t t = 0; t < bound.segments.size(); ++t) {
      const Token& token = bound.term->dims[t];
      if (token.kind != Token::Kind::kMerged) {
        continue;
      }
      int64_t known = 1;
      const std::string* unknown = nullptr;
      for (const std::string& letter : token.letters) {
        if (const DimFactors* dims = this->dims(letter)) {
          known *= size_of((*dims)[0]);
        } else if (unknown) {
          return false;
        } else {
          unknown = &letter;
        }
      }
      const int64_t size = bound.segments[t][0];
      if (unknown) {
        if (known == 0 || size % known != 0) {
          return false;
        }
        left_[*unknown] = {{add_factor(*unknown, size / known)}};
      } else if (known != size) {
        return false;
      }
    }
  }
  return true;
}

bool Binding::apply_modifiers() {
  return std::all_of(
      rule_.modifiers.begin(),
      rule_.modifiers.end(),
      [&](const Modifier& modifier) {
        return apply_modifier(*this, modifier);
      });
}

}  // namespace torch_mesh::rules

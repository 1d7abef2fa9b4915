// rule.h: how one op shards, as a line of text.
//
//   aten::mm                "m k, k n -> m n"   linear(0) linear(1)
//
// A letter is a *factor*, a size that several dims share. On both sides of the
// arrow: sharding passes through. Only left: a sharded factor leaves a partial
// sum. Only right: a new dim, whole. The rule says what is right; the planner
// alone decides what is cheap. docs/notation.md has the grammar.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace torch_mesh {

struct OpCall;

// A factor of a call: its size, and what sharding it means.
struct Factor {
  enum class Kind : uint8_t {
    kPass,     // may be sharded
    kWhole,    // must not be sharded
    kRewrite,  // if sharded, the op's rewrite computes it (mean over dim)
  };
  std::string name;
  int64_t size = 1;
  Kind kind = Kind::kPass;
  bool operator==(const Factor&) const = default;
};

// For each dim of a tensor its factors, the outermost first: most dims have
// one, a merged dim "(b t)" has several, a dim of size 1 that broadcasts none.
using DimFactors = std::vector<std::vector<int>>;

// An integer or list argument which a device must see in its own sizes: element
// i becomes the product of the local sizes of `elements[i]`; an element with
// `keep` stays as the caller gave it, plus the indices at which the device's
// parts of the factors `up` begin, minus those of `down`.
struct LocalSizes {
  struct Element {
    std::vector<int> factors;
    bool keep = false;
    std::vector<int> up;
    std::vector<int> down;
    bool operator==(const Element&) const = default;
  };
  int arg = -1;  // index of the parameter
  std::vector<Element> elements;
  bool operator==(const LocalSizes&) const = default;
};

// A rule applied to one call.
struct Resolved {
  std::vector<Factor> factors;
  std::vector<DimFactors> inputs;   // one for each tensor of the call
  std::vector<DimFactors> outputs;  // one for each returned tensor, lists flat
  // For each output the factors that are summed away in it: sharded, they make
  // it P+. A factor that an output has neither as a dim nor here leaves it
  // replicated (the bias gradient of a convolution along input channels).
  std::vector<std::vector<int>> contracted;
  // Sets of tensors that may be P+ together, all others being replicated on
  // that axis; every output is then P+.
  std::vector<std::vector<int>> linear;
  // Tensors that count once where the outputs become P+ by a contraction.
  std::vector<int> adds;
  std::vector<LocalSizes> local_sizes;
  // The kernel refuses tensors without elements: no device may be left without
  // a part of a sharded factor.
  bool filled = false;
  // A short program of other ops stands for the op, which reads its arguments
  // as they are: all else is empty.
  bool is_program = false;
};

// A line of rule, parsed. Immutable.
class Rule {
 public:
  // text   "m k, k n -> m n" and modifiers after it.
  // Throws [rule-text], with the place of the error.
  static std::shared_ptr<const Rule> parse(std::string_view text);
  virtual ~Rule() = default;

  // Binds the letters to the sizes of one call. Returns false if the rule does
  // not fit the call (sizes that disagree, a mode it does not cover): the op is
  // then computed on replicas, where torch reports what is wrong.
  virtual bool resolve(const OpCall& call, Resolved& out) const = 0;
  // The text in its normal form; parse(str()) is equal.
  virtual const std::string& str() const = 0;
};

// The rule of an op, by "aten::mm" or "aten::sum.dim_IntList"; the most
// specific name wins, in-place and out= variants share their functional op's
// rule. nullptr if there is none.
// Threads: safe; register_rule may run at any time.
std::shared_ptr<const Rule> find_rule(const std::string& op_name);

// Adds or replaces a rule; calls from then on are planned by it. Throws
// [rule-text].
void register_rule(const std::string& op_name, std::string_view text);

// All names that have a rule, sorted.
std::vector<std::string> rule_names();

}  // namespace torch_mesh

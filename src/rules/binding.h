// binding.h: the letters of a rule, bound to the sizes of one call.

#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <torch_mesh/rule.h>

#include "rules/notation.h"
#include "rules/op_call.h"

namespace torch_mesh::rules {

// Binds one alternative to one call. Modifiers then change what is bound, and
// result() reads it off. Functions that return bool say whether the rule fits.
class Binding {
 public:
  Binding(const OpCall& call, const Alternative& alternative);

  bool bind();
  bool apply_modifiers();
  bool result(Resolved& out);

  const OpCall& call() const { return call_; }

  // --- arguments
  // --------------------------------------------------------------- The
  // argument of this name; nullptr if the schema has none.
  const Arg* find_arg(const std::string& name) const;
  // Its integers: those of a list, or the one of an int or bool. Nothing for
  // None and for arguments that the schema lacks. A literal stands for itself.
  std::optional<std::vector<int64_t>> ints(const std::string& word) const;
  std::optional<int64_t> integer(const std::string& word) const;
  bool flag(const std::string& word) const;
  // One dim out of n, not negative. Nothing if it is out of range.
  std::optional<int64_t> dim(const std::string& word, int64_t n) const;

  // --- factors
  // -----------------------------------------------------------------
  int add_factor(const std::string& name, int64_t size);
  // The factors of a dim that is never sharded; none if its size is 1.
  std::vector<int> whole_dim(int64_t size);
  int64_t size_of(const std::vector<int>& dim) const;
  void make(const std::vector<int>& dim, Factor::Kind kind);
  // Makes a dim whole, unless the rule says that it is rewritten.
  void hold(const std::vector<int>& dim);
  // Makes two dims one. False if their sizes differ.
  bool unify(const std::vector<int>& dim, const std::vector<int>& with);
  // The dims of a letter or group left of the arrow; nullptr if it is unbound.
  DimFactors* dims(const std::string& name);
  void set_dims(const std::string& name, DimFactors dims);
  bool is_bound(const std::string& name) const { return left_.count(name) > 0; }

  // --- the main group
  // ----------------------------------------------------------
  const std::string& main_group() const { return main_; }
  // Its dims on the left, and what is to become of them on the right.
  DimFactors& left() { return left_[main_]; }
  DimFactors& right() { return right_; }
  // Results of a list: one entry for each tensor.
  void set_pieces(std::vector<DimFactors> pieces) {
    pieces_ = std::move(pieces);
  }
  // The sizes that the op itself gives its o-th result; nullptr if it cannot
  // say.
  const std::vector<int64_t>* sizes_of_result(size_t o);
  // The dims that an argument names; all of them for None, an empty list, or an
  // argument that the schema lacks. Nothing if one is out of range.
  std::optional<std::vector<bool>> named_dims(const std::string& word) const;

  // The argument, element by element, is to be local.
  void localise(const std::string& word, std::vector<LocalSizes::Element> to);
  // The tensors of the n-th parameter that takes tensors.
  std::vector<int> tensors_of_param(size_t number) const;
  const TensorInfo& tensor(int index) const { return *tensors_[index]; }

 private:
  struct Bound {
    const Term* term = nullptr;
    int number = -1;  // of the tensor parameter
    bool is_out = false;
    std::vector<std::vector<int64_t>> segments;  // sizes for each token
  };

  bool assign_terms();
  bool pin_lengths();
  bool cut_segments(Bound& bound, const TensorInfo& tensor);
  bool bind_letters();
  bool bind_groups();
  bool bind_merged();
  bool bind_letter(const std::string& name, int64_t size);
  std::optional<int64_t> joined_dim() const;
  bool is_skipped(const TensorInfo& tensor) const;

  bool dims_of_input(size_t index, DimFactors& out);
  bool dims_of_term(const Term& term, bool on_right, DimFactors& out);
  bool dims_of_token(const Token& token, bool on_right, DimFactors& out);
  std::optional<DimFactors> aligned(
      const DimFactors& dims,
      const std::vector<int64_t>& sizes) const;
  bool emit_outputs(Resolved& out);
  bool add_output(const Term& term, Resolved& out);
  bool bind_new_dims(const Term& term, size_t output);
  bool emit_out_arguments(Resolved& out);
  bool agrees_with_op(const Resolved& out);
  bool keeps_written_sizes(const Resolved& out) const;
  void emit_contracted(Resolved& out);
  void emit_sets(Resolved& out) const;
  void emit_factors(Resolved& out) const;

  const OpCall& call_;
  const Alternative& rule_;
  const std::string main_;
  std::vector<const TensorInfo*> tensors_;
  std::vector<Bound> bound_;                // [tensor]
  std::map<std::string, int64_t> lengths_;  // groups whose length is given
  std::vector<Factor> factors_;
  std::map<int64_t, int> wholes_;  // size -> a factor of whole_dim
  std::map<std::string, DimFactors> left_;
  DimFactors right_;
  std::optional<std::vector<DimFactors>> pieces_;
  std::optional<std::vector<std::vector<int64_t>>> result_sizes_;
  std::vector<LocalSizes> local_sizes_;
  std::vector<std::vector<int>> independent_;
};

}  // namespace torch_mesh::rules

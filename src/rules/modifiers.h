// modifiers.h: what the words after a rule's terms do to its binding.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "rules/binding.h"
#include "rules/notation.h"

namespace torch_mesh::rules {

// What is wrong with the last modifier of `alternative`, or "".
std::string problem_of_modifier(const Alternative& alternative);

// The words of a line that says what kernels do and has no terms. Throws
// [rule-text].
std::vector<std::string> parse_kernel_words(std::string_view text);

// The words of a rule that say what kernels do. Requires: a text that parses.
std::vector<std::string> kernel_words_in(std::string_view text);

// Applies a modifier to a call whose letters are bound. False: the rule does
// not fit the call.
bool apply_modifier(Binding& binding, const Modifier& modifier);

// Whether the arguments of a call are as `when(...)` says.
bool holds(const OpCall& call, const Modifier& when);

// Whether an index is one of bools or bytes.
bool has_masks(const Arg& indices);

// Modifiers by topic. `dims` stands for the dims that the main group has on the
// right; see docs/notation.md.
using Args = std::vector<std::string>;

// shape_modifiers.cpp
bool permute_dims(Binding& binding, const Args& args);
bool transpose_dims(Binding& binding, const Args& args);
bool select_dim(Binding& binding, const Args& args);
bool slice_dim(Binding& binding, const Args& args);
bool unslice_dim(Binding& binding, const Args& args);
bool unselect_dim(Binding& binding, const Args& args);
bool unsqueeze_dim(Binding& binding, const Args& args);
bool squeeze_dims(Binding& binding, const Args& args);
bool expand_dims(Binding& binding, const Args& args);
bool repeat_dims(Binding& binding, const Args& args);
bool split_dim(Binding& binding, const Args& args);
bool join_dim(Binding& binding, const Args& args);
bool stack_dim(Binding& binding, const Args& args);
bool unbind_dim(Binding& binding, const Args& args);
bool take_diagonal(Binding& binding, const Args& args);
bool unfold_dim(Binding& binding, const Args& args);
bool resize_dim(Binding& binding, const Args& args);
bool pad_dims(Binding& binding, const Args& args);
bool remake_dims(Binding& binding, const Args& args);
bool restore_dims(Binding& binding, const Args& args);

// view_modifier.cpp
bool view_as(Binding& binding, const Args& args);

// index_modifiers.cpp
bool align_along(Binding& binding, const Args& args);
bool swap_dim(Binding& binding, const Args& args);
bool index_by(Binding& binding, const Args& args);

// window_modifiers.cpp
bool slide_window(Binding& binding, const Args& args);
bool convolve(Binding& binding, const Args& args);

}  // namespace torch_mesh::rules

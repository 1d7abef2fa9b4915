// programs.h: ops that are programs of other ops.
//
// Each calls ops on global tensors, so that each of these is planned in its
// turn, and returns false, with the arguments as they were, if the call is an
// ordinary one after all. table.cpp says which op is which program, and when.

#pragma once

#include <span>

#include "dispatch/program.h"

namespace torch_mesh {

// The table, for dispatch/program.h.
std::span<const Program> all_programs();

namespace programs {

// attention.cpp
bool scaled_dot_product_attention(const CallArgs& args);

// batch_norm.cpp
bool native_batch_norm(const CallArgs& args);

// compositions.cpp
bool kaiser_window(const CallArgs& args);
bool kron_out(const CallArgs& args);
bool may_be_nested(const CallArgs& args);
bool tensor_split(const CallArgs& args);

// counts.cpp
bool bincount(const CallArgs& args);
bool equal(const CallArgs& args);
bool histc(const CallArgs& args);

// ctc_loss.cpp
bool ctc_loss(const CallArgs& args);
bool ctc_loss_backward(const CallArgs& args);

// draws.cpp
bool bernoulli(const CallArgs& args);
bool bernoulli_in_place(const CallArgs& args);
bool draw_in_place(const CallArgs& args);
bool draw_like(const CallArgs& args);
bool dropout(const CallArgs& args);
bool multinomial(const CallArgs& args);
bool native_dropout(const CallArgs& args);
bool normal_in_place(const CallArgs& args);
bool normal_like(const CallArgs& args);
bool uniform_in_place(const CallArgs& args);
bool uniform_like(const CallArgs& args);

// embedding_bag.cpp
bool embedding_bag(const CallArgs& args);

// fused_cells.cpp
bool fused_gru_cell(const CallArgs& args);
bool fused_gru_cell_backward(const CallArgs& args);
bool fused_lstm_cell(const CallArgs& args);
bool fused_lstm_cell_backward(const CallArgs& args);

// grouped_mm.cpp
bool grouped_mm(const CallArgs& args);

// log_sigmoid.cpp
bool log_sigmoid_backward(const CallArgs& args);
bool log_sigmoid_forward(const CallArgs& args);

// losses.cpp
bool mean_loss(const CallArgs& args);
bool mean_loss_backward(const CallArgs& args);
bool nll_loss_forward(const CallArgs& args);
bool soft_margin_loss(const CallArgs& args);

// norms.cpp
bool batch_norm(const CallArgs& args);
bool batch_norm_backward(const CallArgs& args);
bool weight_norm(const CallArgs& args);
bool weight_norm_backward(const CallArgs& args);

// picks.cpp
bool embedding(const CallArgs& args);
bool gather(const CallArgs& args);
bool index(const CallArgs& args);
bool index_select(const CallArgs& args);

// puts.cpp
bool index_add(const CallArgs& args);
bool index_copy(const CallArgs& args);
bool index_fill(const CallArgs& args);
bool index_put(const CallArgs& args);
bool scatter(const CallArgs& args);

// recurrent_cells.cpp
bool gru_cell(const CallArgs& args);
bool lstm_cell(const CallArgs& args);
bool rnn_relu_cell(const CallArgs& args);
bool rnn_tanh_cell(const CallArgs& args);

// recurrent_layers.cpp
bool gru(const CallArgs& args);
bool gru_packed(const CallArgs& args);
bool lstm(const CallArgs& args);
bool lstm_packed(const CallArgs& args);
bool rnn_relu(const CallArgs& args);
bool rnn_relu_packed(const CallArgs& args);
bool rnn_tanh(const CallArgs& args);
bool rnn_tanh_packed(const CallArgs& args);

// reductions.cpp
bool all(const CallArgs& args);
bool any(const CallArgs& args);
bool mean(const CallArgs& args);
bool squeeze(const CallArgs& args);
bool standard_deviation(const CallArgs& args);
bool std_mean(const CallArgs& args);
bool var(const CallArgs& args);
bool var_mean(const CallArgs& args);
bool vector_norm(const CallArgs& args);

// sparse.cpp
bool embedding_bag_backward(const CallArgs& args);
bool embedding_sparse_backward(const CallArgs& args);

// views.cpp
bool as_strided_scatter(const CallArgs& args);
bool diagonal_scatter(const CallArgs& args);
bool reshape_alias(const CallArgs& args);
bool select_scatter(const CallArgs& args);
bool roll(const CallArgs& args);
bool slice_scatter(const CallArgs& args);
bool unsafe_split(const CallArgs& args);
bool unsafe_split_with_sizes(const CallArgs& args);

// variants.cpp: by way of the functional op.
// The destination keeps its identity and its layout; a result of another shape
// resizes it as plain torch does.
bool out(const CallArgs& args);
// t_, squeeze_, ...: the tensor becomes the view.
bool inplace_view(const CallArgs& args);

}  // namespace programs
}  // namespace torch_mesh

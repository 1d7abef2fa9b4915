// current_mesh.h: what is in force: the mesh of new tensors, and how batches
// that are moved to it are cut.
//
// Both are one layout: S0 on the axes that cut batches, R on all others. The
// process has one, and a thread may have its own, which the backward passes
// that it starts see too, whichever thread autograd runs them on.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torch_mesh/layout.h>
#include <torch_mesh/tensor.h>

namespace torch_mesh {

// This thread's, else the process's.
Layout layout_in_force();

Layout layout_of_process();
void set_layout_of_process(const Layout& layout);

// Nothing: this thread goes by the process.
std::optional<Layout> override_of_thread();
void set_override_of_thread(const std::optional<Layout>& layout);

// Between these two calls, which nest, this thread moves no batches, whatever
// it moves: parameters, states of optimizers.
void pause_batches();
void resume_batches();

// Whether a plain tensor that goes to the mesh may be a batch: it has two rows
// or more and needs no gradient, and somebody who has the tensor asked for the
// move. That is for `judge` to say; without one nothing is a batch.
bool is_batch(const at::Tensor& tensor);
void set_batch_judge(bool (*judge)(const at::Tensor&));

// Batches that were moved, for those who ask how.
struct BatchMove {
  std::vector<int64_t> sizes;
  c10::ScalarType dtype;
  Layout layout;
  int64_t times;
};
void note_move(const at::Tensor& moved, const Layout& layout);
// The last kinds of them, the oldest first.
std::vector<BatchMove> last_moves();

}  // namespace torch_mesh

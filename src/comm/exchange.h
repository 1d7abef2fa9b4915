// exchange.h: the pieces that devices read of each other in one step.
//
// First all are named, in an order that is the same in every process; then they
// move, at once; then they are taken, in that order. Where one process has both
// devices a piece is read where it lies.

#pragma once

#include <deque>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torch_mesh/mesh.h>

namespace torch_mesh {

class Runs;  // job/runs.h

class Exchange {
 public:
  explicit Exchange(const Mesh& mesh);

  // Device `to` reads a piece of device `from`. Which of the two functions is
  // called depends on whose they are; none, if both are others'.
  //
  //   piece()  it; may be a view
  //   sizes()  its sizes, where another process has it
  //   options  its dtype
  template <typename Piece, typename Sizes>
  void read(
      int to,
      int from,
      const Piece& piece,
      const Sizes& sizes,
      const at::TensorOptions& options) {
    if (mesh_.is_mine(from)) {
      mesh_.is_mine(to) ? read_here(to, from, piece())
                        : send(to, from, piece());
    } else if (mesh_.is_mine(to)) {
      receive(to, from, sizes(), options);
    }
  }

  // Whether the transport forms a sum over this axis itself, of a run of one
  // element after the other in host memory: one device of each process of the
  // job, and numbers enough. The sum is that of pieces in bits, but for floats
  // of three processes and more.
  static bool adds_up(const Mesh& mesh, int axis, const at::Tensor& run);
  // Instead of pieces: each process hands in a run, and has the sum in it once
  // they have moved.
  void add_up(int axis, const at::Tensor& run);

  // Moves them. words() says what this step is, for who finds that processes
  // differ.
  template <typename Words>
  void run(const Words& words) {
    // Noted by all, also by who has nothing to send or receive.
    if (!mesh_.is_all_mine()) {
      travel(words());
    }
  }

  // The next piece for a device of this process, on the device: a view of where
  // it was read, or memory that others get once nobody refers to it. So it is
  // copied, or added to others, and not kept.
  at::Tensor take();

 private:
  // A piece on its way: a flat run of its elements, and how to see them as it
  // was seen by its sender.
  struct Travelling {
    int device;   // the one of this process
    int process;  // the other one
    at::Tensor run;
    std::vector<int64_t> sizes;
    uint64_t order = 0;
  };

  void travel(std::string_view what);
  void name_addend(Runs& runs);
  void read_here(int to, int from, const at::Tensor& piece);
  void send(int to, int from, const at::Tensor& piece);
  void receive(
      int to,
      int from,
      std::vector<int64_t> sizes,
      const at::TensorOptions& options);

  const Mesh& mesh_;
  std::deque<at::Tensor> pieces_;     // those that are there to be taken
  std::vector<Travelling> outgoing_;  // in the order of their naming
  std::vector<Travelling> incoming_;
  std::vector<size_t> places_;  // of `incoming_` in `pieces_`
  // The run of add_up(), and what processes say of it before.
  at::Tensor added_;
  uint64_t num_added_ = 0;
  std::vector<uint64_t> nums_of_others_;
};

}  // namespace torch_mesh

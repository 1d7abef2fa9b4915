// two_processes.h: a communicator between two processes that trade bytes over a
// socket, each of which then does all of the step and keeps what is its own.

#pragma once

#include <unistd.h>

#include <vector>

#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>

#include "comm/communicator.h"
#include "shard/span.h"
#include "trace/counters.h"

namespace torch_mesh {

class TwoProcesses final : public Communicator {
 public:
  // Serves all meshes while it lives. `socket`: to the other process.
  explicit TwoProcesses(int socket) : socket_(socket) {
    set_communicator_for_testing(this);
  }
  ~TwoProcesses() override { set_communicator_for_testing(nullptr); }

  std::vector<Shards> all_reduce(
      const Mesh& mesh,
      std::span<const Step::Part> how,
      AxisMask cut,
      const std::vector<Shards>& operands) override {
    const Lanes& lanes = mesh.lanes(cut);
    std::vector<Shards> all;
    for (const Shards& operand : operands) {
      all.push_back(traded(lanes, operand));
    }
    std::vector<Shards> sums = inner_.all_reduce(mesh, how, cut, all);
    for (Shards& sum : sums) {
      sum = kept(lanes, sum);
    }
    return sums;
  }
  std::vector<Shards> reduce_scatter(Bucket parts) override {
    return each(parts, &Communicator::reduce_scatter);
  }
  std::vector<Shards> all_gather(Bucket shards) override {
    return each(shards, &Communicator::all_gather);
  }
  std::vector<Shards> all_to_all(Bucket shards) override {
    return each(shards, &Communicator::all_to_all);
  }
  void copy(const Mesh& mesh, int axis, const std::vector<Copy>& copies)
      override {
    if (axis >= 0) {
      count_call(Step::Kind::kAllToAll, mesh, axis);
    }
    auto is_mine = [&](int device) {
      return mesh.devices()[device].process == this_process();
    };
    for (const Copy& copy : copies) {
      const bool is_here = is_mine(copy.to);
      if (is_mine(copy.from)) {
        is_here ? (void)copy.target.local().copy_(copy.source.local())
                : send(copy.source.local());
      } else if (is_here) {
        copy.target.local().copy_(receive());
      }
    }
  }

 private:
  std::vector<Shards> each(
      Bucket bucket,
      std::vector<Shards> (Communicator::*step)(Bucket)) {
    std::vector<Shards> results;
    for (const Moved& moved : bucket) {
      const Shards all = traded(moved.before.lanes(), moved.shards);
      const Moved whole{moved.step, moved.before, moved.sizes, all};
      results.push_back(
          kept(moved.step.after.lanes(), (inner_.*step)(Bucket(&whole, 1))[0]));
    }
    return results;
  }

  // The shards of both processes. The first speaks first.
  Shards traded(const Lanes& lanes, const Shards& mine) {
    Shards all = mine;
    for (const bool sends : {this_process() == 0, this_process() != 0}) {
      for (int lane = 0; lane < lanes.num; ++lane) {
        if (lanes.is_mine(lane) != sends) {
          continue;
        }
        if (sends) {
          send(mine[lane].local());
        } else {
          all[lane] = receive();
        }
      }
    }
    return all;
  }

  static Shards kept(const Lanes& lanes, const Shards& all) {
    Shards mine(lanes.num);
    for (const int lane : lanes.mine) {
      mine[lane] = all[lane];
    }
    return mine;
  }

  void send(const at::Tensor& tensor) {
    const std::vector<int64_t> strides =
        strides_in_order_of(as_span(tensor.sizes()), as_span(tensor.strides()));
    const at::Tensor dense =
        at::empty_strided(tensor.sizes(), strides, tensor.options())
            .copy_(tensor);
    const int64_t head[] = {tensor.dim(),
                            static_cast<int64_t>(tensor.scalar_type())};
    put(head, sizeof head);
    put(dense.sizes().data(), dense.dim() * sizeof(int64_t));
    put(strides.data(), dense.dim() * sizeof(int64_t));
    put(dense.const_data_ptr(), dense.nbytes());
  }

  at::Tensor receive() {
    int64_t head[2];
    get(head, sizeof head);
    std::vector<int64_t> sizes(head[0]);
    std::vector<int64_t> strides(head[0]);
    get(sizes.data(), sizes.size() * sizeof(int64_t));
    get(strides.data(), strides.size() * sizeof(int64_t));
    at::Tensor tensor =
        at::empty_strided(sizes, strides, static_cast<at::ScalarType>(head[1]));
    get(tensor.mutable_data_ptr(), tensor.nbytes());
    return tensor;
  }

  void put(const void* data, size_t num_bytes) {
    for (auto at = static_cast<const char*>(data); num_bytes > 0;) {
      const ssize_t done = write(socket_, at, num_bytes);
      TORCH_MESH_ASSERT(done > 0, "the other process is gone");
      at += done;
      num_bytes -= done;
    }
  }
  void get(void* data, size_t num_bytes) {
    for (auto at = static_cast<char*>(data); num_bytes > 0;) {
      const ssize_t done = read(socket_, at, num_bytes);
      TORCH_MESH_ASSERT(done > 0, "the other process is gone");
      at += done;
      num_bytes -= done;
    }
  }

  const int socket_;
  Communicator& inner_ = communicator_of(Mesh());
};

}  // namespace torch_mesh

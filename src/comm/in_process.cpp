// in_process.cpp: the devices of one process, as ops on their shards.
//
// An all-reduce is a ring's: each member forms the sum of one chunk, and all
// get the chunks of the others. So a device of n receives 2 (n - 1) chunks,
// whatever the kind of device is.

#include <deque>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>

#include "comm/communicator.h"
#include "comm/pieces.h"
#include "core/groups.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

// Reads pieces for a device, and keeps account of those that come from another
// memory: no other code of a step reads one.
class Reader {
 public:
  Reader(const Mesh& mesh, int device)
      : mesh_(mesh),
        device_(device),
        place_(torch_device(mesh.devices()[device])) {}
  ~Reader() {
    if (num_bytes_ != 0) {
      count_moved(mesh_, device_, num_bytes_);
    }
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  at::Tensor read(const at::Tensor& piece, int from) {
    if (mesh_.memory(from) == mesh_.memory(device_)) {
      return piece;
    }
    num_bytes_ += piece.numel() * static_cast<int64_t>(piece.itemsize());
    return piece.to(place_);
  }

 private:
  const Mesh& mesh_;
  const int device_;
  const c10::Device place_;
  int64_t num_bytes_ = 0;
};

// Writes the sum of `parts`, in order, into memory of its own.
void sum_into(const at::Tensor& sum, const std::vector<at::Tensor>& parts) {
  const bool is_half =
      sum.scalar_type() == at::kHalf || sum.scalar_type() == at::kBFloat16;
  const at::Tensor wide = is_half ? parts[0].to(at::kFloat) : sum;
  if (!is_half) {
    sum.copy_(parts[0]);
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    wide.add_(parts[i]);
  }
  if (is_half) {
    sum.copy_(wide);
  }
}

std::vector<int64_t> dense_strides_of(const Shard& shard) {
  return strides_in_order_of(as_span(shard.sizes()), as_span(shard.strides()));
}

// --- all-reduce --------------------------------------------------------------

using Strides = std::vector<std::vector<int64_t>>;  // [operand]

// A member's operands as one run of memory: where there is one that lies in the
// wanted order its own, else a copy.
at::Tensor packed(
    const std::vector<Shards>& operands,
    int lane,
    const Strides& strides) {
  std::vector<at::Tensor> runs;
  for (size_t k = 0; k < operands.size(); ++k) {
    const at::Tensor part = with_strides(operands[k][lane].local(), strides[k]);
    runs.push_back(part.as_strided({part.numel()}, {1}, part.storage_offset()));
  }
  return runs.size() == 1 ? runs[0] : at::cat(runs);
}

// Gives the operands' sums memory of their own; one operand has it already.
void unpack(
    const at::Tensor& run,
    const std::vector<Shards>& operands,
    int lane,
    const Strides& strides,
    std::vector<Shards>& sums) {
  int64_t begin = 0;
  for (size_t k = 0; k < operands.size(); ++k) {
    const Shard& part = operands[k][lane];
    at::Tensor sum = run.as_strided(part.sizes(), strides[k], begin);
    if (operands.size() > 1) {
      sum =
          at::empty_strided(part.sizes(), strides[k], run.options()).copy_(sum);
    }
    sums[k][lane] = std::move(sum);
    begin += part.numel();
  }
}

// The sum of the runs of a group's members, in a run of its own for each.
std::vector<at::Tensor> ring(
    const Mesh& mesh,
    const std::vector<int>& devices,
    const std::vector<at::Tensor>& runs) {
  const size_t n = runs.size();
  auto chunk_of = [&](const at::Tensor& run, size_t j) {
    const Range range =
        chunk(run.numel(), static_cast<int64_t>(n), static_cast<int64_t>(j));
    return run.narrow(0, range.begin, range.length);
  };
  std::deque<Reader> readers;
  std::vector<at::Tensor> sums;
  for (size_t j = 0; j < n; ++j) {
    Reader& reader = readers.emplace_back(mesh, devices[j]);
    std::vector<at::Tensor> parts;
    for (size_t m = 0; m < n; ++m) {
      parts.push_back(reader.read(chunk_of(runs[m], j), devices[m]));
    }
    sums.push_back(at::empty({runs[j].numel()}, runs[j].options()));
    sum_into(chunk_of(sums[j], j), parts);
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (i != j) {
        chunk_of(sums[i], j)
            .copy_(readers[i].read(chunk_of(sums[j], j), devices[j]));
      }
    }
  }
  return sums;
}

// --- the others --------------------------------------------------------------

int64_t size_of(const Step& step) {
  return step.after.mesh().axis(step.axis).size;
}

// What `read(reader, device)` gives for each lane after the step.
template <typename Read>
Shards for_each_reader(const Step& step, const Read& read) {
  Shards result;
  for (int device : step.after.lanes().first_device) {
    Reader reader(step.after.mesh(), device);
    result.push_back(read(reader, device));
  }
  return result;
}

// Puts together what each member along the axis has for a device: its shard, or
// the part of it that the device keeps. Cut first, so that no more is moved.
Shards gathered(
    const Step& step,
    const Layout& before,
    const Shards& shards,
    const Placement* kept) {
  const Mesh& mesh = before.mesh();
  return for_each_reader(step, [&](Reader& reader, int device) {
    const int64_t place = mesh.coordinate(device, step.axis);
    std::vector<at::Tensor> pieces;
    for (int64_t i = 0; i < size_of(step); ++i) {
      const int from = mesh.neighbour(device, step.axis, i);
      const at::Tensor& shard =
          shards[before.lanes().lane_of_device[from]].local();
      pieces.push_back(reader.read(
          kept ? cut(shard, *kept, size_of(step), place) : shard, from));
    }
    return join(std::move(pieces), step.from);
  });
}

class InProcess final : public Communicator {
 public:
  std::vector<Shards> all_reduce(
      const Mesh& mesh,
      int axis,
      AxisMask cut_axes,
      const std::vector<Shards>& operands) override {
    const Lanes& lanes = mesh.lanes(cut_axes);
    std::vector<Shards> sums(operands.size(), Shards(lanes.num));
    for (int lane = 0; lane < lanes.num; ++lane) {
      if (!sums[0][lane].defined()) {
        const std::vector<int> group =
            parts_of(mesh, axis, lanes, lanes.first_device[lane]);
        reduce_group(mesh, axis, lanes, group, operands, sums);
      }
    }
    return sums;
  }

  Shards reduce_scatter(
      const Step& step,
      const Layout& before,
      const Shards& parts) override {
    const Mesh& mesh = before.mesh();
    const Lanes& lanes = before.lanes();
    return for_each_reader(step, [&](Reader& reader, int device) {
      const int64_t place = mesh.coordinate(device, step.axis);
      std::vector<at::Tensor> pieces;
      for (int lane : parts_of(mesh, step.axis, lanes, device)) {
        pieces.push_back(reader.read(
            cut(parts[lane].local(), step.to, size_of(step), place),
            lanes.first_device[lane]));
      }
      if (pieces.size() == 1) {
        return pieces[0];
      }
      at::Tensor sum = at::empty_strided(
          pieces[0].sizes(), dense_strides_of(pieces[0]), pieces[0].options());
      sum_into(sum, pieces);
      return sum;
    });
  }

  Shards all_gather(
      const Step& step,
      const Layout& before,
      const Shards& shards) override {
    return gathered(step, before, shards, /*kept=*/nullptr);
  }

  Shards all_to_all(
      const Step& step,
      const Layout& before,
      const Shards& shards) override {
    return gathered(step, before, shards, &step.to);
  }

  void copy(const Mesh& mesh, const std::vector<Copy>& copies) override {
    for (const Copy& copy : copies) {
      Reader reader(mesh, copy.to);
      copy.target.local().copy_(reader.read(copy.source.local(), copy.from));
    }
  }

 private:
  static void reduce_group(
      const Mesh& mesh,
      int axis,
      const Lanes& lanes,
      const std::vector<int>& group,
      const std::vector<Shards>& operands,
      std::vector<Shards>& sums) {
    std::vector<int> devices;
    for (int lane : group) {
      devices.push_back(lanes.first_device[lane]);
      TORCH_MESH_ASSERT(
          parts_of(mesh, axis, lanes, devices.back()) == group,
          "all_reduce: two devices of one memory sum with other memories "
          "each.");
    }
    // All members pack in the order in which the first holds its part.
    Strides strides;
    for (const Shards& operand : operands) {
      strides.push_back(dense_strides_of(operand[group[0]]));
    }
    std::vector<at::Tensor> runs;
    for (int lane : group) {
      runs.push_back(packed(operands, lane, strides));
    }
    const std::vector<at::Tensor> summed = ring(mesh, devices, runs);
    for (size_t member = 0; member < group.size(); ++member) {
      unpack(summed[member], operands, group[member], strides, sums);
    }
  }
};

}  // namespace

Communicator& communicator_of(const Mesh&) {
  static auto& in_process = *new InProcess;
  return in_process;
}

}  // namespace torch_mesh

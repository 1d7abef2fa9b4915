// in_process.cpp: the devices of one process, as ops on their shards.
//
// An all-reduce is a ring's: each member forms the sum of one chunk, and all
// get the chunks of the others. So a device of n receives 2 (n - 1) chunks,
// whatever the kind of device is. Along several axes chunks are cut of chunks.

#include "comm/in_process.h"

#include <deque>
#include <utility>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>

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

// Writes the sum of `parts`, in order, into `sum`, which may be one of them.
void sum_into(const at::Tensor& sum, const std::vector<at::Tensor>& parts) {
  const bool is_half =
      sum.scalar_type() == at::kHalf || sum.scalar_type() == at::kBFloat16;
  bool is_later_part = false;
  for (size_t i = 1; i < parts.size(); ++i) {
    is_later_part |= parts[i].is_alias_of(sum);
  }
  at::Tensor total = sum;
  if (is_half) {
    total = parts[0].to(at::kFloat);
  } else if (is_later_part) {
    total = parts[0].clone();
  } else {
    total.copy_(parts[0]);
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    total.add_(parts[i]);
  }
  if (!total.is_same(sum)) {
    sum.copy_(total);
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

// Sums of flat runs, one for each lane, while their collectives run: around the
// ring of an axis after the other.
class Ring {
 public:
  Ring(const Mesh& mesh, const Lanes& lanes, std::vector<at::Tensor> runs)
      : mesh_(mesh), lanes_(lanes), parts_(std::move(runs)) {
    for (int lane = 0; lane < lanes_.num; ++lane) {
      readers_.emplace_back(mesh_, lanes_.first_device[lane]);
      held_.push_back(
          at::empty({parts_[lane].numel()}, parts_[lane].options()));
    }
  }

  void run(const Step::Part& part) {
    count_call(part.kind, mesh_, part.axis);
    if (part.kind != Step::Kind::kAllGather) {
      scatter(part.axis);
    }
    if (part.kind != Step::Kind::kReduceScatter) {
      gather(part.axis);
    }
  }

  // Of each lane, in memory of its own.
  std::vector<at::Tensor> take() && { return std::move(held_); }

 private:
  // Each member forms the sum of its chunk of the parts.
  void scatter(int axis) {
    std::vector<at::Tensor> chunks;
    for (int lane = 0; lane < lanes_.num; ++lane) {
      const Member member = member_of(axis, lane);
      std::vector<at::Tensor> pieces;
      for (int from : member.group) {
        pieces.push_back(read(lane, from, chunk_of(parts_[from], member)));
      }
      chunks.push_back(chunk_of(held_[lane], member));
      sum_into(chunks.back(), pieces);
    }
    open_.push_back(std::exchange(held_, chunks));
    parts_ = std::move(chunks);
  }

  // Undoes the last scatter that is open: each member gets the others' chunks.
  void gather(int axis) {
    const std::vector<at::Tensor> chunks =
        std::exchange(held_, std::move(open_.back()));
    open_.pop_back();
    for (int lane = 0; lane < lanes_.num; ++lane) {
      Member member = member_of(axis, lane);
      for (size_t i = 0; i < member.group.size(); ++i) {
        member.place = static_cast<int64_t>(i);
        if (const int from = member.group[i]; from != lane) {
          chunk_of(held_[lane], member).copy_(read(lane, from, chunks[from]));
        }
      }
    }
    parts_ = held_;
  }

  Member member_of(int axis, int lane) const {
    Member member = member_of_group(mesh_, axis, lanes_, lane);
    for (int other : member.group) {
      TORCH_MESH_ASSERT(
          parts_of(mesh_, axis, lanes_, lanes_.first_device[other]) ==
              member.group,
          "all_reduce: two devices of one memory sum with other memories "
          "each.");
    }
    return member;
  }

  static at::Tensor chunk_of(const at::Tensor& run, const Member& member) {
    const Range range = chunk(
        run.numel(), static_cast<int64_t>(member.group.size()), member.place);
    return run.narrow(0, range.begin, range.length);
  }

  at::Tensor read(int lane, int from, const at::Tensor& piece) {
    return readers_[lane].read(piece, lanes_.first_device[from]);
  }

  const Mesh& mesh_;
  const Lanes& lanes_;
  std::deque<Reader> readers_;
  // All of each lane: what is added up next; where its sum goes; and where it
  // went before each scatter that is open.
  std::vector<at::Tensor> parts_;
  std::vector<at::Tensor> held_;
  std::vector<std::vector<at::Tensor>> open_;
};

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
Shards gathered(const Communicator::Moved& moved, const Placement* kept) {
  const Step& step = moved.step;
  const std::vector<int>& lane_of = moved.before.lanes().lane_of_device;
  const Mesh& mesh = moved.before.mesh();
  return for_each_reader(step, [&](Reader& reader, int device) {
    const int64_t place = mesh.coordinate(device, step.axis);
    std::vector<at::Tensor> pieces;
    for (int64_t i = 0; i < size_of(step); ++i) {
      const int from = mesh.neighbour(device, step.axis, i);
      const at::Tensor& shard = moved.shards[lane_of[from]].local();
      pieces.push_back(reader.read(
          kept ? cut(shard, *kept, size_of(step), place) : shard, from));
    }
    return join(std::move(pieces), step.from);
  });
}

// What each device keeps of the sum: cut out of each part, and added up.
Shards scattered(const Communicator::Moved& moved) {
  const Step& step = moved.step;
  const Mesh& mesh = moved.before.mesh();
  const Lanes& lanes = moved.before.lanes();
  return for_each_reader(step, [&](Reader& reader, int device) {
    const int64_t place = mesh.coordinate(device, step.axis);
    std::vector<at::Tensor> pieces;
    for (int lane : parts_of(mesh, step.axis, lanes, device)) {
      pieces.push_back(reader.read(
          cut(moved.shards[lane].local(), step.to, size_of(step), place),
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

class InProcess final : public Communicator {
 public:
  std::vector<Shards> all_reduce(
      const Mesh& mesh,
      std::span<const Step::Part> how,
      AxisMask cut_axes,
      const std::vector<Shards>& operands) override {
    const Lanes& lanes = mesh.lanes(cut_axes);
    // Who sums together packs in the order in which the first holds its part.
    std::vector<Strides> strides;
    std::vector<at::Tensor> runs;
    for (int lane = 0; lane < lanes.num; ++lane) {
      int first = lanes.first_device[lane];
      for (const Step::Part& part : how) {
        first = mesh.neighbour(first, part.axis, 0);
      }
      Strides& of_lane = strides.emplace_back();
      for (const Shards& operand : operands) {
        of_lane.push_back(
            dense_strides_of(operand[lanes.lane_of_device[first]]));
      }
      runs.push_back(packed(operands, lane, of_lane));
    }
    Ring ring(mesh, lanes, std::move(runs));
    for (const Step::Part& part : how) {
      ring.run(part);
    }
    runs = std::move(ring).take();
    std::vector<Shards> sums(operands.size(), Shards(lanes.num));
    for (int lane = 0; lane < lanes.num; ++lane) {
      unpack(runs[lane], operands, lane, strides[lane], sums);
      runs[lane].reset();
    }
    return sums;
  }

  std::vector<Shards> reduce_scatter(Bucket parts) override {
    return each(parts, scattered);
  }
  std::vector<Shards> all_gather(Bucket shards) override {
    return each(shards, [](const Moved& moved) {
      return gathered(moved, /*kept=*/nullptr);
    });
  }
  std::vector<Shards> all_to_all(Bucket shards) override {
    return each(shards, [](const Moved& moved) {
      return gathered(moved, &moved.step.to);
    });
  }
  void copy(const Mesh& mesh, int axis, const std::vector<Copy>& copies)
      override {
    if (axis >= 0) {
      count_call(Step::Kind::kAllToAll, mesh, axis);
    }
    for (const Copy& copy : copies) {
      Reader reader(mesh, copy.to);
      copy.target.local().copy_(reader.read(copy.source.local(), copy.from));
    }
  }

 private:
  template <typename Run>
  static std::vector<Shards> each(Bucket bucket, const Run& run) {
    count_call(bucket[0].step);
    std::vector<Shards> results;
    for (const Moved& moved : bucket) {
      results.push_back(run(moved));
    }
    return results;
  }
};

}  // namespace

Communicator& in_process_communicator() {
  static auto& in_process = *new InProcess;
  return in_process;
}

}  // namespace torch_mesh

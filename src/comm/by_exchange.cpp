// by_exchange.cpp: what each device reads of the others, and what it makes of
// it.
//
// The devices of one process and those of many take one way: the same pieces,
// added up in the same order, so the same bits. An all-reduce is a ring's: each
// member forms the sum of one chunk, and all get the chunks of the others. So a
// device of n receives 2 (n - 1) chunks, whatever the kind of device is. Along
// several axes chunks are cut of chunks.

#include "comm/by_exchange.h"

#include <sstream>
#include <string>
#include <utility>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>

#include <torch_mesh/error.h>

#include "comm/exchange.h"
#include "comm/fold.h"
#include "comm/pieces.h"
#include "comm/workspace.h"
#include "core/groups.h"
#include "core/shapes.h"
#include "shard/local_ops.h"
#include "shard/span.h"
#include "shard/strides.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

std::vector<int64_t> dense_strides_of(const Shard& shard) {
  return strides_in_order_of(as_span(shard.sizes()), as_span(shard.strides()));
}

// What a process says of a step: nothing that differs between processes which
// do the same.
std::string words(
    const char* what,
    const Mesh& mesh,
    int axis,
    const Shard& like,
    size_t num_values,
    std::span<const int64_t> sizes = {}) {
  std::ostringstream text;
  text << what << " along " << mesh.axis(axis).name << " of ";
  if (num_values > 1) {
    text << num_values << " values of ";
  }
  text << c10::getDtypeNames(like.scalar_type()).first;
  if (num_values == 1 && !sizes.empty()) {
    text << "[";
    for (size_t i = 0; i < sizes.size(); ++i) {
      text << (i == 0 ? "" : ", ") << sizes[i];
    }
    text << "]";
  }
  text << ", in " << CurrentOp::name();
  return text.str();
}

// --- all-reduce --------------------------------------------------------------

constexpr int64_t kLargestElement = 16;  // bytes: complex128

using Strides = std::vector<std::vector<int64_t>>;  // [operand]

// A member's operands as one run of memory: where there is one that lies in the
// wanted order its own, else a copy.
at::Tensor packed(
    const std::vector<Shards>& operands,
    int lane,
    const Strides& strides,
    bool reuses_memory) {
  std::vector<at::Tensor> runs;
  for (size_t k = 0; k < operands.size(); ++k) {
    const at::Tensor part = with_strides(operands[k][lane].local(), strides[k]);
    runs.push_back(part.as_strided({part.numel()}, {1}, part.storage_offset()));
  }
  if (runs.size() == 1) {
    return runs[0];
  }
  if (!reuses_memory) {
    return at::cat(runs);
  }
  int64_t numel = 0;
  for (const at::Tensor& run : runs) {
    numel += run.numel();
  }
  at::Tensor all = workspace(numel, runs[0].scalar_type());
  return at::cat_out(all, runs);
}

// The order in which a member packs its operands: those who sum together must
// have one. In one process it is that of the first of them; a process does not
// see how others' parts lie.
Strides common_strides(
    const Mesh& mesh,
    std::span<const Step::Part> how,
    const Lanes& lanes,
    int lane,
    const std::vector<Shards>& operands) {
  const bool is_all_mine = mesh.is_all_mine();
  int first = lanes.first_device[lane];
  for (const Step::Part& part : how) {
    first = mesh.neighbour(first, part.axis, 0);
  }
  Strides strides;
  for (const Shards& operand : operands) {
    strides.push_back(
        is_all_mine ? dense_strides_of(operand[lanes.lane_of_device[first]])
                    : contiguous_strides(operand[lane].sizes()));
  }
  return strides;
}

// The operands' sums: as they were packed, or where processes pack row by row
// as the parts lay. Those of one process have memory of their own; of several,
// sums that lie as they were packed share that of the run: they were one
// bucket, and live as long, and neither is copied nor needs new pages. But for
// those that begin where no complex number may: a sum can be viewed as any
// dtype.
void unpack(
    const at::Tensor& run,
    const std::vector<Shards>& operands,
    int lane,
    const Strides& strides,
    bool is_all_mine,
    std::vector<Shards>& sums) {
  int64_t begin = 0;
  for (size_t k = 0; k < operands.size(); ++k) {
    const Shard& part = operands[k][lane];
    const at::Tensor sum = run.as_strided(part.sizes(), strides[k], begin);
    const std::vector<int64_t> wanted =
        is_all_mine ? strides[k] : dense_strides_of(part);
    const bool may_share = !is_all_mine && wanted == strides[k] &&
                           begin * part.itemsize() % kLargestElement == 0;
    sums[k][lane] =
        operands.size() > 1 && !may_share
            ? at::empty_strided(part.sizes(), wanted, run.options()).copy_(sum)
            : with_strides(sum, wanted);
    begin += part.numel();
  }
}

// Sums of flat runs, one for each lane, while their collectives run: around the
// ring of an axis after the other.
class Ring {
 public:
  // runs  [lanes]; of others' lanes there is none
  Ring(
      const Mesh& mesh,
      const Lanes& lanes,
      std::vector<at::Tensor> runs,
      size_t num_values,
      bool reuses_memory)
      : mesh_(mesh),
        lanes_(lanes),
        num_values_(num_values),
        parts_(std::move(runs)) {
    // One value has memory of its own size.
    for (const at::Tensor& run : parts_) {
      held_.push_back(
          !run.defined() ? run
          : reuses_memory && num_values > 1
              ? lasting_workspace(run.numel(), run.scalar_type())
              : at::empty({run.numel()}, run.options()));
    }
  }

  void run(const Step::Part& part) {
    count_call(part.kind, mesh_, part.axis);
    if (part.kind == Step::Kind::kAllReduce &&
        Exchange::adds_up(mesh_, part.axis, parts_[lanes_.mine[0]])) {
      add_up(part.axis, lanes_.mine[0]);
      return;
    }
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
  auto said(const char* what, int axis) const {
    return [=, this] {
      return words(what, mesh_, axis, parts_[lanes_.mine[0]], num_values_);
    };
  }

  // The transport does it.
  void add_up(int axis, int lane) {
    const at::Tensor run = held_[lane].copy_(parts_[lane]);
    Exchange exchange(mesh_);
    exchange.add_up(axis, run);
    exchange.run([&] {
      return words("sum", mesh_, axis, run, 1, as_span(run.sizes()));
    });
    parts_ = held_;
  }

  // Each member forms the sum of its chunk of the parts.
  void scatter(int axis) {
    Exchange exchange(mesh_);
    for (int lane = 0; lane < lanes_.num; ++lane) {
      const Member member = member_of(axis, lane);
      for (const int from : member.group) {
        exchange.read(
            lanes_.first_device[lane],
            lanes_.first_device[from],
            [&] { return chunk_of(parts_[from], member); },
            [&] { return chunk_of(parts_[lane], member).sizes().vec(); },
            options());
      }
    }
    exchange.run(said("sum", axis));
    std::vector<at::Tensor> chunks(lanes_.num);
    for (const int lane : lanes_.mine) {
      const Member member = member_of(axis, lane);
      std::vector<at::Tensor> pieces;
      std::vector<int64_t> places;
      for (const int from : member.group) {
        pieces.push_back(exchange.take());
        places.push_back(mesh_.coordinate(lanes_.first_device[from], axis));
      }
      chunks[lane] = chunk_of(held_[lane], member);
      sum_into(chunks[lane], {pieces, places});
    }
    open_.push_back(std::exchange(held_, chunks));
    parts_ = std::move(chunks);
  }

  // Undoes the last scatter that is open: each member gets the others' chunks.
  void gather(int axis) {
    const std::vector<at::Tensor> chunks =
        std::exchange(held_, std::move(open_.back()));
    open_.pop_back();
    Exchange exchange(mesh_);
    for_each_other(axis, [&](int lane, int from, const Member& sender) {
      exchange.read(
          lanes_.first_device[lane],
          lanes_.first_device[from],
          [&] { return chunks[from]; },
          [&] { return chunk_of(held_[lane], sender).sizes().vec(); },
          options());
    });
    exchange.run(said("all_gather", axis));
    for_each_other(axis, [&](int lane, int, const Member& sender) {
      if (lanes_.is_mine(lane)) {
        chunk_of(held_[lane], sender).copy_(exchange.take());
      }
    });
    parts_ = held_;
  }

  // Of each lane and each other one that sums with it: f(lane, from, the place
  // of `from`).
  template <typename F>
  void for_each_other(int axis, const F& f) const {
    for (int lane = 0; lane < lanes_.num; ++lane) {
      Member member = member_of(axis, lane);
      for (size_t i = 0; i < member.group.size(); ++i) {
        member.place = static_cast<int64_t>(i);
        if (member.group[i] != lane) {
          f(lane, member.group[i], member);
        }
      }
    }
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

  at::TensorOptions options() const { return parts_[lanes_.mine[0]].options(); }

  const Mesh& mesh_;
  const Lanes& lanes_;
  const size_t num_values_;
  // All of each lane: what is added up next; where its sum goes; and where it
  // went before each scatter that is open.
  std::vector<at::Tensor> parts_;
  std::vector<at::Tensor> held_;
  std::vector<std::vector<at::Tensor>> open_;
};

// --- the others --------------------------------------------------------------

// Of the piece that a device keeps of a shard of these sizes.
std::vector<int64_t> cut_sizes(
    std::vector<int64_t> sizes,
    const Placement& placement,
    int64_t n,
    int64_t i) {
  int64_t& length = sizes[placement.dim];
  length = cut_length(length, placement, n, i);
  return sizes;
}

// A step of one value: what it reads, and what becomes of that.
class Reading {
 public:
  explicit Reading(const Communicator::Moved& moved)
      : moved_(moved),
        mesh_(moved.before.mesh()),
        lanes_before_(moved.before.lanes()),
        lanes_after_(moved.step.after.lanes()),
        n_(mesh_.axis(moved.step.axis).size) {}

  // Names the pieces of each lane after the step.
  void name_pieces(Exchange& exchange) const {
    for (const int device : lanes_after_.first_device) {
      for (const int from : sources(device)) {
        exchange.read(
            device,
            from,
            [&] { return piece(device, from); },
            [&] { return piece_sizes(device, from); },
            moved_.shards.any().local().options());
      }
    }
  }

  // The shards after the step.
  Shards take(Exchange& exchange) const {
    Shards result(lanes_after_.num);
    for (const int lane : lanes_after_.mine) {
      const std::vector<int> from = sources(lanes_after_.first_device[lane]);
      std::vector<at::Tensor> pieces;
      for (size_t i = 0; i < from.size(); ++i) {
        pieces.push_back(exchange.take());
      }
      result[lane] = is_sum() ? sum(pieces, from)
                              : join(std::move(pieces), moved_.step.from);
    }
    return result;
  }

 private:
  bool is_sum() const { return moved_.step.kind == Step::Kind::kReduceScatter; }
  // Whether a device keeps no more than a piece of a shard: it is cut before it
  // moves.
  bool is_cut() const { return moved_.step.kind != Step::Kind::kAllGather; }

  // The devices of which one reads, itself among them.
  std::vector<int> sources(int device) const {
    std::vector<int> from;
    if (is_sum()) {
      for (const int lane :
           parts_of(mesh_, moved_.step.axis, lanes_before_, device)) {
        from.push_back(lanes_before_.first_device[lane]);
      }
      return from;
    }
    for (int64_t i = 0; i < n_; ++i) {
      from.push_back(mesh_.neighbour(device, moved_.step.axis, i));
    }
    return from;
  }

  at::Tensor piece(int device, int from) const {
    const at::Tensor& shard =
        moved_.shards[lanes_before_.lane_of_device[from]].local();
    return is_cut() ? cut(shard, moved_.step.to, n_, place(device)) : shard;
  }
  std::vector<int64_t> piece_sizes(int device, int from) const {
    std::vector<int64_t> sizes = shard_sizes(moved_.before, moved_.sizes, from);
    return is_cut()
               ? cut_sizes(std::move(sizes), moved_.step.to, n_, place(device))
               : sizes;
  }
  int64_t place(int device) const {
    return mesh_.coordinate(device, moved_.step.axis);
  }

  at::Tensor sum(
      const std::vector<at::Tensor>& pieces,
      const std::vector<int>& from) const {
    if (pieces.size() == 1) {
      return pieces[0];
    }
    std::vector<int64_t> places;
    for (const int device : from) {
      places.push_back(place(device));
    }
    at::Tensor sum = at::empty_strided(
        pieces[0].sizes(), dense_strides_of(pieces[0]), pieces[0].options());
    sum_into(sum, {pieces, places});
    return sum;
  }

  const Communicator::Moved& moved_;
  const Mesh& mesh_;
  const Lanes& lanes_before_;
  const Lanes& lanes_after_;
  const int64_t n_;  // devices along the axis
};

class ByExchange final : public Communicator {
 public:
  std::vector<Shards> all_reduce(
      const Mesh& mesh,
      std::span<const Step::Part> how,
      AxisMask cut_axes,
      const std::vector<Shards>& operands) override {
    const Lanes& lanes = mesh.lanes(cut_axes);
    const bool reuses_memory =
        !mesh.is_all_mine() && operands[0].any().local().is_cpu();
    std::vector<Strides> strides(lanes.num);
    std::vector<at::Tensor> runs(lanes.num);
    for (const int lane : lanes.mine) {
      strides[lane] = common_strides(mesh, how, lanes, lane, operands);
      runs[lane] = packed(operands, lane, strides[lane], reuses_memory);
    }
    Ring ring(mesh, lanes, std::move(runs), operands.size(), reuses_memory);
    for (const Step::Part& part : how) {
      ring.run(part);
    }
    runs = std::move(ring).take();
    std::vector<Shards> sums(operands.size(), Shards(lanes.num));
    for (const int lane : lanes.mine) {
      unpack(
          runs[lane], operands, lane, strides[lane], mesh.is_all_mine(), sums);
      runs[lane].reset();
    }
    return sums;
  }

  std::vector<Shards> reduce_scatter(Bucket parts) override {
    return run(parts);
  }
  std::vector<Shards> all_gather(Bucket shards) override { return run(shards); }
  std::vector<Shards> all_to_all(Bucket shards) override { return run(shards); }

  void copy(const Mesh& mesh, int axis, const std::vector<Copy>& copies)
      override {
    if (axis >= 0) {
      count_call(Step::Kind::kAllToAll, mesh, axis);
    }
    Exchange exchange(mesh);
    for (const Copy& copy : copies) {
      const Shard& known = copy.source.defined() ? copy.source : copy.target;
      if (known.defined()) {
        exchange.read(
            copy.to,
            copy.from,
            [&] { return copy.source.local(); },
            [&] { return copy.target.sizes().vec(); },
            known.local().options());
      }
    }
    exchange.run([] { return "copy of elements, in " + CurrentOp::name(); });
    for (const Copy& copy : copies) {
      if (mesh.is_mine(copy.to)) {
        copy.target.local().copy_(exchange.take());
      }
    }
  }

 private:
  static std::vector<Shards> run(Bucket bucket) {
    const Step& step = bucket[0].step;
    count_call(step);
    Exchange exchange(step.after.mesh());
    for (const Moved& moved : bucket) {
      Reading(moved).name_pieces(exchange);
    }
    exchange.run([&] {
      return words(
          name(step.kind),
          step.after.mesh(),
          step.axis,
          bucket[0].shards.any(),
          bucket.size(),
          bucket[0].sizes);
    });
    std::vector<Shards> results;
    for (const Moved& moved : bucket) {
      results.push_back(Reading(moved).take(exchange));
    }
    return results;
  }
};

}  // namespace

Communicator& communicator_by_exchange() {
  static auto& by_exchange = *new ByExchange;
  return by_exchange;
}

}  // namespace torch_mesh

// argument.cpp: from a tensor to the shards that local ops read and write.

#include "run/argument.h"

#include <algorithm>

#include "comm/run_steps.h"
#include "run/destinations.h"
#include "run/packing.h"
#include "tensor/base_value.h"
#include "tensor/keep_sum.h"
#include "tensor/pending_sums.h"
#include "tensor/window_value.h"

namespace torch_mesh {
namespace {

// What an argument has before its steps, and those from there. Another thread
// may have formed a sum since the steps were planned: then they are others.
struct Start {
  explicit Start(Argument& argument) : moves(argument.moves) {
    if (argument.shards == &argument.moved) {  // spread before
      shards = std::move(argument.moved);
      return;
    }
    const at::Tensor& tensor = *argument.tensor;
    Held now = argument.parts ? *argument.parts : held_memory(tensor);
    argument.origin = now.origin;
    if (now.layout != moves->from) {
      anew = redistribution_of(
          now.layout, moves->to, tensor.sizes(), tensor.scalar_type());
      moves = anew.get();
    }
    shards = std::move(now.shards);
  }

  const Redistribution* moves;
  std::shared_ptr<const Redistribution> anew;
  Shards shards;
};

std::vector<Shards> run_together(c10::ArrayRef<Argument*> arguments) {
  std::vector<Start> starts;
  std::vector<const Redistribution*> moves;
  std::vector<Shards> shards;
  starts.reserve(arguments.size());
  moves.reserve(arguments.size());
  shards.reserve(arguments.size());
  for (Argument* argument : arguments) {
    starts.emplace_back(*argument);
    moves.push_back(starts.back().moves);
    shards.push_back(std::move(starts.back().shards));
  }
  run_redistributions(moves, shards);
  return shards;
}

void read_moved(Argument& argument, Shards shards) {
  argument.moved = std::move(shards);
  argument.shards = &argument.moved;
}

}  // namespace

void reduce_together(c10::ArrayRef<Argument*> arguments) {
  c10::SmallVector<const at::Tensor*, 4> pending;
  c10::SmallVector<AxisMask, 4> axes;
  for (const Argument* argument : arguments) {
    AxisMask reduced = 0;
    for (const Step& step : argument->moves->steps) {
      if (step.kind != Step::Kind::kAllReduce) {
        break;
      }
      reduced |= step.axes();
    }
    pending.push_back(argument->tensor);
    axes.push_back(reduced);
  }
  reduce_pending(pending, axes);
}

// A plain tensor, or one of another mesh, counts as replicated. What is written
// to a copy on each device is written back once.
void spread(Argument& argument, const Mesh& mesh) {
  const at::Tensor& tensor = *argument.tensor;
  read_moved(
      argument,
      on_each(
          mesh,
          argument.is_global ? full_value(tensor) : tensor,
          argument.is_written));
}

void open(Argument& argument, bool overwrites) {
  const at::Tensor& tensor = *argument.tensor;
  argument.is_open = overwrites || argument.moves->steps.empty() ||
                     layout_of(tensor) == argument.moves->to;
  if (!argument.is_open) {
    // Another thread has formed the sum in a layout of its own.
    move(argument);
    own(argument.moved);
    keep_order(argument);
    return;
  }
  read_moved(
      argument, overwrites ? begin_overwrite(tensor) : begin_write(tensor));
}

void move(Argument& argument) {
  const Start start(argument);
  read_moved(argument, run_redistribution(*start.moves, start.shards));
}

void form(Argument& argument) {
  move(argument);
  argument.sum = argument.moved;
}

void move_together(c10::ArrayRef<Argument*> arguments) {
  std::vector<Shards> moved = run_together(arguments);
  for (size_t i = 0; i < arguments.size(); ++i) {
    read_moved(*arguments[i], std::move(moved[i]));
  }
}

void form_together(c10::ArrayRef<Argument*> arguments) {
  std::vector<Shards> formed = run_together(arguments);
  for (size_t i = 0; i < arguments.size(); ++i) {
    arguments[i]->sum = std::move(formed[i]);
  }
}

void keep(Argument& argument) {
  keep_sum(
      *argument.tensor,
      argument.origin.value().memory_generation,
      argument.moves->to,
      std::move(argument.sum));
}

void keep_order(Argument& argument) {
  const bool has_bits = argument.shards != &argument.moved;
  const auto is_contiguous = [](const Shard& shard) {
    return shard.is_contiguous();
  };
  if (has_bits && argument.tensor->is_contiguous() &&
      std::all_of(
          argument.shards->begin(), argument.shards->end(), is_contiguous)) {
    return;  // taken, and in order
  }
  if (has_bits) {
    read_moved(argument, *argument.shards);
  }
  argument.moved = dense_as(
      *argument.tensor,
      argument.must_be_dense,
      argument.joins,
      std::move(argument.moved));
  if (argument.is_global && !has_bits) {
    argument.moved = with_bits_of(*argument.tensor, std::move(argument.moved));
  }
}

at::Tensor whole_value(const Argument& argument, const Mesh& mesh) {
  const at::Tensor& tensor = *argument.tensor;
  return run_redistribution(
             *redistribution_of(
                 argument.moves->to,
                 Layout::replicated(mesh),
                 tensor.sizes(),
                 tensor.scalar_type()),
             *argument.shards)
      .any()
      .local();
}

void take(Argument& argument) {
  const at::Tensor& tensor = *argument.tensor;
  const Layout& layout = argument.moves->to;
  if (argument.parts && argument.parts->layout == layout) {
    argument.origin = argument.parts->origin;
    read_moved(argument, with_bits_of(tensor, argument.parts->shards));
    return;
  }
  if (const Shards* settled = settled_shards(tensor);
      settled && meta_of(tensor).layout == layout) {
    argument.shards = settled;
    return;
  }
  Held now = held_memory(tensor);
  if (now.layout == layout) {
    argument.origin = now.origin;
    read_moved(argument, with_bits_of(tensor, std::move(now.shards)));
    return;
  }
  // Another thread has formed the sum in a layout of its own.
  move(argument);
  own(argument.moved);
  keep_order(argument);
}

}  // namespace torch_mesh

// argument.h: a tensor argument of a call while its instructions run.

#pragma once

#include <memory>
#include <optional>
#include <vector>

#include <torch_mesh/redistribute.h>

#include "lower/instruction.h"
#include "shard/shard.h"
#include "tensor/global_tensor.h"

namespace torch_mesh {

struct Argument {
  const at::Tensor* tensor = nullptr;
  const Redistribution* moves = nullptr;
  bool is_global = false;
  bool is_written = false;
  // Of a pending sum its parts when the call began; else nullptr.
  std::shared_ptr<const Held> parts = nullptr;
  // The local op reads memory as it lies.
  bool must_be_dense = false;
  // Slices of one tensor shall stay so: the lanes may join along dim 0.
  bool joins = false;

  const Shards* shards = nullptr;  // the tensor's own, or `moved`
  // Whether it is written where it lies.
  bool is_open = false;
  Shards moved;
  Shards sum;                     // formed, to be kept
  std::optional<Origin> origin;   // none of settled shards: the tensor's own
  at::Tensor whole;               // of the shards, if they are joined
  std::vector<at::Tensor> zeros;  // [lanes] run/destinations.h
};

// Arguments on the mesh `mesh`; the instructions of lower/instruction.h.
void reduce_together(c10::ArrayRef<Argument*> arguments);
void take(Argument& argument);
void open(Argument& argument, bool overwrites);
void spread(Argument& argument, const Mesh& mesh);
void move(Argument& argument);
void form(Argument& argument);
void keep(Argument& argument);
void keep_order(Argument& argument);

// What is in its shards by now, to be written over the tensor.
at::Tensor whole_value(const Argument& argument, const Mesh& mesh);

// The same of many, as one.
void move_together(c10::ArrayRef<Argument*> arguments);
void form_together(c10::ArrayRef<Argument*> arguments);

}  // namespace torch_mesh

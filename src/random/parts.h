// parts.h: torch's random numbers for parts of a tensor: those that drawing the
// whole would put there, bit for bit, without drawing the rest.

#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace torch_mesh {

// One call of torch that fills a contiguous tensor on the CPU.
struct Drawing {
  enum class Kind : uint8_t {
    kBernoulli,  // bernoulli_(first), float32, then times `second`
    kNormal,     // normal_(first, second)
    kUniform,    // uniform_(first, second)
  };
  Kind kind;
  double first;
  double second;
  c10::ScalarType dtype;
  int64_t numel;                 // of the whole
  at::Generator generator = {};  // undefined: torch's default one
};

// Numbers begin, begin + 1, ... of the whole, for a contiguous tensor.
struct Part {
  int64_t begin;
  at::Tensor numbers;
};

// Whether draw_parts can: the generator is torch's for CPUs, the arguments are
// such that torch draws, and its kernel takes the words here that we think it
// does, which is tried out once for each kind and dtype.
bool can_draw_parts(const Drawing& drawing);

// Fills these, which do not overlap, and leaves the generator as drawing the
// whole does. Its words are passed by where nobody wants them.
// Requires: can_draw_parts.
void draw_parts(const Drawing& drawing, std::vector<Part> parts);

}  // namespace torch_mesh

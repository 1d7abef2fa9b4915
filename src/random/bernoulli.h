// bernoulli.h: torch's own Bernoulli numbers, many at a time.

#pragma once

#include <span>

#include <ATen/core/Tensor.h>

#include "random/mersenne.h"

namespace torch_mesh {

// Draws whole.numel() numbers, those of whole.bernoulli_(p) with torch's
// default CPU generator, bit for bit, and leaves the generator as that does.
// Where a one is drawn it writes `kept`, else 0.
//
//   whole   float32, on the CPU, contiguous
//   p       0 < p < 1
//
// Where the torch of this machine draws in another way (it may use MKL's
// generator), its own kernel does it.
void fill_bernoulli(const at::Tensor& whole, double p, float kept);

// The same with words of a state. Each number takes two.
void draw_bernoulli(
    Mersenne& words,
    std::span<float> out,
    double p,
    float kept);

// Whether torch's kernel gives the same numbers here, and leaves its generator
// at the same place; else fill_bernoulli asks that kernel.
bool bernoulli_draws_as_torch();

}  // namespace torch_mesh

// bernoulli.h: torch's own Bernoulli numbers, many at a time.

#pragma once

#include <span>

#include "random/mersenne.h"

namespace torch_mesh {

// Draws the next numbers as bernoulli_(p) of float32 does on the CPU, each of
// two words. Where a one is drawn it writes `kept`, else 0.
//
//   p   0 < p < 1
void draw_bernoulli(
    Mersenne& words,
    std::span<float> out,
    double p,
    float kept);

}  // namespace torch_mesh

// bernoulli.cpp: blocks of words as 0 and `kept`.

#include "random/bernoulli.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace torch_mesh {
namespace {

using Words = Mersenne::Words;
constexpr int kLanes = Mersenne::kLanes;

// Numbers of 53 bits, each of two words, the first above the second.
uint64_t number(uint32_t high, uint32_t low) {
  constexpr uint64_t kMask = (uint64_t{1} << 53) - 1;
  return (uint64_t{high} << 32 | low) & kMask;
}

// out[i] = `kept` where number i of `words` is below `limit`, else 0.
void compare(
    const uint32_t* words,
    int num,
    uint64_t limit,
    float kept,
    float* out) {
  using Ints = int32_t __attribute__((vector_size(4 * kLanes)));
  constexpr uint32_t kSign = 0x80000000;  // compares unsigned words as ints
  const auto high_limit = static_cast<int32_t>(limit >> 32);
  const auto low_limit =
      static_cast<int32_t>(static_cast<uint32_t>(limit) ^ kSign);
  uint32_t kept_bits = 0;
  std::memcpy(&kept_bits, &kept, sizeof kept);
  int i = 0;
  for (; i + kLanes <= num; i += kLanes) {
    const Words first = Mersenne::load(words + 2 * i);
    const Words second = Mersenne::load(words + 2 * i + kLanes);
    const Words high = __builtin_shufflevector(first, second, 0, 2, 4, 6);
    const Words low = __builtin_shufflevector(first, second, 1, 3, 5, 7);
    const Ints h = (Ints)(high & 0x1fffff);
    const Ints l = (Ints)(low ^ kSign);
    const Ints below = (h < high_limit) | ((h == high_limit) & (l < low_limit));
    const Words bits = (Words)below & kept_bits;
    std::memcpy(out + i, &bits, sizeof bits);
  }
  for (; i < num; ++i) {
    out[i] = number(words[2 * i], words[2 * i + 1]) < limit ? kept : 0.0f;
  }
}

}  // namespace

void draw_bernoulli(
    Mersenne& words,
    std::span<float> out,
    double p,
    float kept) {
  // A number x of 53 bits is below p * 2^53 as x / 2^53 is below p.
  const auto limit = static_cast<uint64_t>(std::ceil(std::ldexp(p, 53)));
  while (!out.empty()) {
    const std::span<const uint32_t> ahead = words.ahead();
    const size_t count = std::min(ahead.size() / 2, out.size());
    if (count == 0) {  // the last word of this block, the first of the next
      const uint32_t high = words.next();
      out[0] = number(high, words.next()) < limit ? kept : 0.0f;
      out = out.subspan(1);
      continue;
    }
    std::array<uint32_t, Mersenne::kBlock> drawn;
    temper(ahead.first(2 * count), drawn.data());
    compare(drawn.data(), static_cast<int>(count), limit, kept, out.data());
    words.skip(static_cast<int64_t>(2 * count));
    out = out.subspan(count);
  }
}

}  // namespace torch_mesh

// mersenne.cpp: a block of words of the one before, in place.

#include "random/mersenne.h"

#include <algorithm>
#include <cstring>

namespace torch_mesh {
namespace {

using Words = Mersenne::Words;
constexpr int kLanes = Mersenne::kLanes;
constexpr int kBlock = Mersenne::kBlock;
constexpr int kShift = at::MERSENNE_STATE_M;
constexpr uint32_t kUpper = 0x80000000;
constexpr uint32_t kLower = 0x7fffffff;
constexpr uint32_t kMatrix = 0x9908b0df;

void store(uint32_t* to, const Words& words) {
  std::memcpy(to, &words, sizeof words);
}

template <typename Word>
Word twisted(const Word& word, const Word& next, const Word& far) {
  const Word mixed = (word & kUpper) | (next & kLower);
  return far ^ (mixed >> 1) ^ ((next & 1) * kMatrix);
}

template <typename Word>
Word tempered(Word y) {
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680;
  y ^= (y << 15) & 0xefc60000;
  y ^= y >> 18;
  return y;
}

// Words `begin` to `end` of the next block, in place; `far` is the distance to
// the word that is added.
void twist(uint32_t* state, int begin, int end, int far) {
  int i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    store(
        state + i,
        twisted(
            Mersenne::load(state + i),
            Mersenne::load(state + i + 1),
            Mersenne::load(state + i + far)));
  }
  for (; i < end; ++i) {
    state[i] = twisted(state[i], state[i + 1], state[i + far]);
  }
}

}  // namespace

void Mersenne::turn() {
  uint32_t* state = data_.state_.data();
  twist(state, 0, kBlock - kShift, kShift);
  twist(state, kBlock - kShift, kBlock - 1, kShift - kBlock);
  state[kBlock - 1] = twisted(state[kBlock - 1], state[0], state[kShift - 1]);
  data_.next_ = 0;
  left_ = kBlock;
}

std::span<const uint32_t> Mersenne::ahead() {
  if (left_ == 0) {
    turn();
  }
  return {data_.state_.data() + data_.next_, static_cast<size_t>(left_)};
}

uint32_t Mersenne::next() {
  const uint32_t word = tempered(ahead()[0]);
  skip(1);
  return word;
}

void Mersenne::skip(int64_t num) {
  while (num > 0) {
    if (left_ == 0) {
      turn();
    }
    const int passed = static_cast<int>(std::min<int64_t>(left_, num));
    data_.next_ += passed;
    left_ -= passed;
    num -= passed;
  }
}

at::mt19937_data_pod Mersenne::data() const {
  at::mt19937_data_pod data = data_;
  data.left_ = left_ + 1;
  return data;
}

void temper(std::span<const uint32_t> state, uint32_t* words) {
  size_t i = 0;
  for (; i + kLanes <= state.size(); i += kLanes) {
    store(words + i, tempered(Mersenne::load(state.data() + i)));
  }
  for (; i < state.size(); ++i) {
    words[i] = tempered(state[i]);
  }
}

}  // namespace torch_mesh

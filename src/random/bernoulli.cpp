// bernoulli.cpp: blocks of words from torch's generator, as 0 and `kept`.

#include "random/bernoulli.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>

namespace torch_mesh {
namespace {

constexpr int kNumWords = at::MERSENNE_STATE_N;
constexpr int kShift = at::MERSENNE_STATE_M;
constexpr int kLanes = 4;
constexpr uint32_t kUpper = 0x80000000;
constexpr uint32_t kLower = 0x7fffffff;
constexpr uint32_t kMatrix = 0x9908b0df;

// A vector of the compiler's: on any processor, in what registers it has.
using Words = uint32_t __attribute__((vector_size(4 * kLanes)));

Words load(const uint32_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

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
        twisted(load(state + i), load(state + i + 1), load(state + i + far)));
  }
  for (; i < end; ++i) {
    state[i] = twisted(state[i], state[i + 1], state[i + far]);
  }
}

void next_block(uint32_t* state) {
  twist(state, 0, kNumWords - kShift, kShift);
  twist(state, kNumWords - kShift, kNumWords - 1, kShift - kNumWords);
  state[kNumWords - 1] =
      twisted(state[kNumWords - 1], state[0], state[kShift - 1]);
}

void temper(const uint32_t* state, int num, uint32_t* words) {
  int i = 0;
  for (; i + kLanes <= num; i += kLanes) {
    store(words + i, tempered(load(state + i)));
  }
  for (; i < num; ++i) {
    words[i] = tempered(state[i]);
  }
}

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
    const Words first = load(words + 2 * i);
    const Words second = load(words + 2 * i + kLanes);
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

// Draws from a copy of the generator's state.
class Draws {
 public:
  explicit Draws(at::mt19937_data_pod data)
      : data_(data), left_(data.left_ - 1) {}

  // out[i] = `kept` where a number is below `limit`, else 0.
  void fill(float* out, int64_t num, uint64_t limit, float kept) {
    while (num > 0) {
      if (left_ == 1) {  // the last word of this block, the first of the next
        const uint32_t high = word();
        *out++ = number(high, word()) < limit ? kept : 0.0f;
        --num;
        continue;
      }
      if (left_ == 0) {
        turn();
      }
      const int count = static_cast<int>(std::min<int64_t>(left_ / 2, num));
      uint32_t words[kNumWords];
      temper(data_.state_.data() + data_.next_, 2 * count, words);
      compare(words, count, limit, kept, out);
      take(2 * count);
      out += count;
      num -= count;
    }
  }

  at::mt19937_data_pod data() const {
    at::mt19937_data_pod data = data_;
    data.left_ = left_ + 1;
    return data;
  }

 private:
  void turn() {
    next_block(data_.state_.data());
    data_.next_ = 0;
    left_ = kNumWords;
  }

  void take(int num) {
    data_.next_ += num;
    left_ -= num;
  }

  uint32_t word() {
    if (left_ == 0) {
      turn();
    }
    const uint32_t word = tempered(data_.state_[data_.next_]);
    take(1);
    return word;
  }

  at::mt19937_data_pod data_;
  int left_;  // words of this block that are not drawn yet
};

void draw(
    at::CPUGeneratorImpl& generator,
    float* out,
    int64_t num,
    double p,
    float kept) {
  // A number x of 53 bits is below p * 2^53 as x / 2^53 is below p.
  const auto limit = static_cast<uint64_t>(std::ceil(std::ldexp(p, 53)));
  std::lock_guard lock(generator.mutex_);
  at::mt19937 engine = generator.engine();
  Draws draws(engine.data());
  draws.fill(out, num, limit, kept);
  engine.set_data(draws.data());
  generator.set_engine(engine);
}

bool draws_alike() {
  constexpr int64_t kNum = 5000;
  constexpr double kP = 0.3;
  at::Generator theirs = at::detail::createCPUGenerator(11);
  at::Generator ours = at::detail::createCPUGenerator(11);
  auto* their_words = at::check_generator<at::CPUGeneratorImpl>(theirs);
  auto* our_words = at::check_generator<at::CPUGeneratorImpl>(ours);
  for (int num = 0; num < 2; ++num) {  // from an even and from an odd word
    const at::Tensor expected =
        at::empty({kNum}, at::kFloat).bernoulli_(kP, theirs);
    const at::Tensor drawn = at::empty({kNum}, at::kFloat);
    draw(*our_words, drawn.mutable_data_ptr<float>(), kNum, kP, 1);
    if (!at::equal(expected, drawn) ||
        their_words->random() != our_words->random()) {
      return false;
    }
  }
  return true;
}

}  // namespace

bool bernoulli_draws_as_torch() {
  static const bool alike = draws_alike();
  return alike;
}

void fill_bernoulli(const at::Tensor& whole, double p, float kept) {
  if (!bernoulli_draws_as_torch()) {
    whole.bernoulli_(p).mul_(kept);
    return;
  }
  draw(
      *at::check_generator<at::CPUGeneratorImpl>(
          at::detail::getDefaultCPUGenerator()),
      whole.mutable_data_ptr<float>(),
      whole.numel(),
      p,
      kept);
}

}  // namespace torch_mesh

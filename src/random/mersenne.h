// mersenne.h: the words of torch's CPU generator, a block of 624 at a time.

#pragma once

#include <cstdint>
#include <cstring>
#include <mutex>
#include <span>

#include <ATen/CPUGeneratorImpl.h>

namespace torch_mesh {

// Source: M. Matsumoto and T. Nishimura, "Mersenne Twister", ACM TOMACS 8(1),
// 1998. torch makes one word for each call; here a block is made at once, in
// vector registers. Works on a copy of a generator's state.
class Mersenne {
 public:
  static constexpr int kBlock = at::MERSENNE_STATE_N;
  static constexpr int kLanes = 4;
  // A vector of the compiler's: on any processor, in what registers it has.
  using Words = uint32_t __attribute__((vector_size(4 * kLanes)));
  static Words load(const uint32_t* from) {
    Words words;
    std::memcpy(&words, from, sizeof words);
    return words;
  }

  explicit Mersenne(const at::mt19937_data_pod& data)
      : data_(data), left_(data.left_ - 1) {}

  // Those to come next of one block, at least one, before they are tempered.
  // Valid until they are skipped.
  std::span<const uint32_t> ahead();
  // The next one, as the generator would give it.
  uint32_t next();
  // Passes by words to come: a quarter of the time that it takes to draw them.
  void skip(int64_t num);

  // The state, for a generator that goes on from here.
  at::mt19937_data_pod data() const;

 private:
  void turn();

  at::mt19937_data_pod data_;
  int left_;  // words of this block that are not drawn yet
};

// Calls use(Mersenne&) with the words to come of a generator, which goes on
// behind what was drawn. Nobody else draws from it meanwhile.
template <typename Use>
void with_words(at::CPUGeneratorImpl& generator, Use use) {
  const std::lock_guard lock(generator.mutex_);
  at::mt19937 engine = generator.engine();
  Mersenne words(engine.data());
  use(words);
  engine.set_data(words.data());
  generator.set_engine(engine);
}

// Makes of words of the state those that the generator gives.
void temper(std::span<const uint32_t> state, uint32_t* words);

}  // namespace torch_mesh

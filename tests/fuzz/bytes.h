// bytes.h: a fuzzer's input, read as numbers, choices, meshes and layouts.

#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <torch_mesh/layout.h>

namespace torch_mesh::fuzz {

// Every row of bytes means something: what is read past its end is 0.
class Bytes {
 public:
  explicit Bytes(std::span<const uint8_t> data) : data_(data) {}

  bool is_empty() const { return data_.empty(); }
  // In [0, end); `end` at most 2^32.
  int64_t below(int64_t end);
  bool flip() { return below(2) == 1; }
  template <typename Items>
  const auto& pick(const Items& items) {
    return items[below(static_cast<int64_t>(std::size(items)))];
  }
  // What is left, as text.
  std::string rest();
  // At most `length` characters of what is left.
  std::string text(int64_t length);
  // Numbers that no input steers.
  std::mt19937_64 random() { return std::mt19937_64(below(65536)); }

  // A mesh of at most `max_axes` axes and `max_devices` devices.
  Mesh mesh(int max_axes, int64_t max_devices);
  // Small or large, with an eye to sizes that blocks divide.
  std::vector<int64_t> sizes(int max_dims);
  int64_t size();
  // A layout that is valid for `sizes`.
  Layout layout(
      const Mesh& mesh,
      std::span<const int64_t> sizes,
      bool with_partial = true);

 private:
  Placement placement(int64_t n, int64_t num_dims, bool with_partial);

  std::span<const uint8_t> data_;
};

}  // namespace torch_mesh::fuzz

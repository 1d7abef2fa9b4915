// placement.h: what one mesh axis does to a tensor.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace torch_mesh {

// `R` replicate: each device along the axis holds the same value.
// `S<dim>` shard: dim is cut in ceil-sized chunks, the last ones smaller or
//   empty (as torch.chunk cuts).
// `S<dim>/<block>` shard inside blocks: dim is a row of blocks of `block`
//   elements, and each block is cut in equal chunks. This is what merging
//   [a, b] into [a * b] makes of a sharded b (block = size of b on the devices
//   that earlier axes leave); block is divisible by the size of the axis.
// `P+` partial: the value is the sum over the devices along the axis.
struct Placement {
  enum class Kind : uint8_t { kReplicate, kShard, kPartial };

  Kind kind = Kind::kReplicate;
  int32_t dim = -1;   // kShard: tensor dim, >= 0
  int64_t block = 0;  // kShard: elements in a block; 0 if the dim is one block

  static Placement replicate() { return {}; }
  static Placement shard(int64_t dim, int64_t block = 0) {
    return {Kind::kShard, static_cast<int32_t>(dim), block};
  }
  static Placement partial() { return {Kind::kPartial, -1, 0}; }
  // Parses "R", "S0", "S1/8", "P+" ("P" too). Throws [placement-text].
  static Placement parse(std::string_view text);

  bool is_replicate() const { return kind == Kind::kReplicate; }
  bool is_shard() const { return kind == Kind::kShard; }
  bool is_shard(int64_t d) const { return is_shard() && dim == d; }
  bool is_partial() const { return kind == Kind::kPartial; }

  std::string str() const;
  bool operator==(const Placement&) const = default;
};

}  // namespace torch_mesh

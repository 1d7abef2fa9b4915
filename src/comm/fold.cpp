// fold.cpp: sums of the lanes of one memory.

#include "comm/fold.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include <ATen/ops/add.h>

namespace torch_mesh {
namespace {

bool is_half(const at::Tensor& part) {
  return part.scalar_type() == at::kHalf || part.scalar_type() == at::kBFloat16;
}

// The first part whose place has the highest bit in which places differ.
size_t middle(std::span<const int64_t> places) {
  const auto differing = static_cast<uint64_t>(places.front() ^ places.back());
  const int64_t bit = int64_t{1} << (63 - std::countl_zero(differing));
  size_t i = 0;
  while ((places[i] & bit) == 0) {
    ++i;
  }
  return i;
}

// A sum while it is formed, in float32 if it is a half-precision one.
struct Sum {
  at::Tensor value;
  bool is_new;  // nobody else has its memory
};

Sum form(Parts parts);

std::pair<Sum, Sum> halves(Parts parts) {
  const size_t i = middle(parts.places);
  const bool are_new = parts.are_new;
  return {form({parts.parts.first(i), parts.places.first(i), are_new}),
          form({parts.parts.subspan(i), parts.places.subspan(i), are_new})};
}

Sum form(Parts parts) {
  if (parts.parts.size() == 1) {
    const at::Tensor& part = parts.parts[0];
    return is_half(part) ? Sum{part.to(at::kFloat), true}
                         : Sum{part, parts.are_new};
  }
  auto [left, right] = halves(parts);
  if (left.is_new) {
    left.value.add_(right.value);
    return left;
  }
  return {at::add(left.value, right.value), true};
}

}  // namespace

at::Tensor sum_of(Parts parts) {
  return parts.parts.size() == 1
             ? parts.parts[0]
             : form(parts).value.to(parts.parts[0].scalar_type());
}

void sum_into(const at::Tensor& sum, Parts parts) {
  if (parts.parts.size() == 1) {
    if (!parts.parts[0].is_same(sum)) {
      sum.copy_(parts.parts[0]);
    }
    return;
  }
  // Piece by piece: what stands between is then small.
  constexpr int64_t kPiece = int64_t{1} << 16;
  if (parts.parts.size() > 2 && sum.dim() == 1 && sum.numel() > kPiece) {
    std::vector<at::Tensor> pieces(parts.parts.size());
    for (int64_t begin = 0; begin < sum.numel(); begin += kPiece) {
      const int64_t length = std::min(kPiece, sum.numel() - begin);
      for (size_t i = 0; i < pieces.size(); ++i) {
        pieces[i] = parts.parts[i].narrow(0, begin, length);
      }
      sum_into(sum.narrow(0, begin, length), {pieces, parts.places});
    }
    return;
  }
  const auto [left, right] = halves(parts);
  if (is_half(sum)) {
    sum.copy_(at::add(left.value, right.value));
  } else {
    at::add_out(const_cast<at::Tensor&>(sum), left.value, right.value);
  }
}

int64_t place_along(const Mesh& mesh, AxisMask axes, int device) {
  int64_t place = 0;
  for (int axis = 0; axis < mesh.num_axes(); ++axis) {
    if (axes >> axis & 1) {
      const auto last = static_cast<uint64_t>(mesh.axis(axis).size - 1);
      place = place << std::bit_width(last) | mesh.coordinate(device, axis);
    }
  }
  return place;
}

Shards fold_lanes(
    const Mesh& mesh,
    AxisMask fine,
    AxisMask coarse,
    AxisMask summed,
    Shards parts) {
  const Lanes& from = mesh.lanes(fine);
  const Lanes& to = mesh.lanes(coarse);
  if (from.num == to.num) {
    return parts;
  }
  struct Group {
    std::vector<at::Tensor> parts;
    std::vector<int64_t> places;
    int64_t place_among_equals = -1;
  };
  std::vector<Group> groups(to.num);
  for (const int lane : from.mine) {
    const int device = from.first_device[lane];
    Group& group = groups[to.lane_of_device[device]];
    const int64_t place = place_along(mesh, fine & ~coarse & ~summed, device);
    if (group.parts.empty()) {
      group.place_among_equals = place;
    }
    if (group.place_among_equals == place) {
      group.parts.push_back(std::move(parts[lane]).local());
      group.places.push_back(place_along(mesh, fine & summed, device));
    }
  }
  Shards sums(to.num);
  for (const int lane : to.mine) {
    sums[lane] =
        sum_of({groups[lane].parts, groups[lane].places, /*are_new=*/true});
  }
  return sums;
}

}  // namespace torch_mesh

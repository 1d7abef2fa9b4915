// span.h: torch's array references as the core's spans.

#pragma once

#include <cstdint>
#include <span>

#include <c10/util/ArrayRef.h>

namespace torch_mesh {

inline std::span<const int64_t> as_span(c10::IntArrayRef values) {
  return {values.data(), values.size()};
}

}  // namespace torch_mesh

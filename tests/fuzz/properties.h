// properties.h: promises that hold whatever the input; what the fuzzers check.
//
// Each function reads a case from `bytes` and throws Broken if a promise does
// not hold for it. Any other exception is a finding too.

#pragma once

#include <stdexcept>
#include <string>

#include "fuzz/bytes.h"

namespace torch_mesh::fuzz {

struct Broken : std::logic_error {
  using std::logic_error::logic_error;
};

template <typename... Parts>
void require(bool holds, const Parts&... parts) {
  if (!holds) {
    throw Broken((std::string() + ... + parts));
  }
}

// A text is a rule, or throws [rule-text]. The normal form of a rule is the
// same rule. Meeting any call, a rule fits or does not; if it fits, factors,
// sizes and dims agree with the call's tensors.
void check_rule(Bytes& bytes);

// A text is a placement, layout, device or mesh, or throws what the header
// says; printed and read again it is the same. Shards are as large as told and
// together make the whole; lanes hold devices of one memory and one value.
void check_layout_algebra(Bytes& bytes);

// The steps end in the layout asked for and with its values, through layouts
// that are valid; bytes are not negative, and those that a simulation counts.
void check_redistribution(Bytes& bytes);

// A planned op, run by each device on its shards, gives the op's value.
void check_plan(Bytes& bytes);

}  // namespace torch_mesh::fuzz

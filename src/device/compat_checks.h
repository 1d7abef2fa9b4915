// compat_checks.h: what the engine knows of torch that torch does not promise.
//
// docs/torch-internals.md has the same names and says what to do where a check
// fails beside a new torch. What would not compile needs no check here.

#pragma once

#include <span>
#include <string>

namespace torch_mesh {

struct CompatCheck {
  const char* name;
  const char* source;  // the file that relies on it
  // What is not as expected; "" if all is. Runs ops on a mesh of its own.
  std::string (*problem)();
};

std::span<const CompatCheck> compat_checks();

}  // namespace torch_mesh

// error_of.h: the message of the error that a call ends in.

#pragma once

#include <string>

#include <torch_mesh/error.h>

namespace torch_mesh {

// "" if the call ends well.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const CoreError& error) {
    return error.what();
  }
  return "";
}

// The code alone: "layout-dim".
template <typename Call>
std::string error_code_of(const Call& call) {
  try {
    call();
  } catch (const CoreError& error) {
    return error.code;
  }
  return "";
}

}  // namespace torch_mesh

// error.h: how the torch-free core reports what is wrong.
//
// A message has the form
//
//   <op or function>: <what is wrong, with the two values>.
//     <indented facts>
//   Hint: <one action>. [code]
//
// `code` is a stable slug with a section in docs/errors.md. Where torch is
// linked a CoreError becomes the matching c10 exception, so Python sees
// ValueError, NotImplementedError, RuntimeError.

#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace torch_mesh {

enum class ErrorKind {
  kValue,         // the user's argument or layout     -> ValueError
  kNotSupported,  // not built yet; the hint says what works instead
  kProcess,       // of a job of several processes     -> RuntimeError
  kBug,           // a broken promise of our own       -> RuntimeError
};

class CoreError : public std::runtime_error {
 public:
  CoreError(ErrorKind kind, const char* code, const std::string& text)
      : std::runtime_error(text + " [" + code + "]"), kind(kind), code(code) {}

  ErrorKind kind;
  const char* code;
};

namespace detail {

template <typename... Parts>
[[noreturn]] void raise(
    ErrorKind kind,
    const char* code,
    const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw CoreError(kind, code, text.str());
}

}  // namespace detail
}  // namespace torch_mesh

#define TORCH_MESH_CHECK_VALUE(condition, code, ...)                           \
  if (!(condition)) [[unlikely]] {                                             \
    ::torch_mesh::detail::raise(                                               \
        ::torch_mesh::ErrorKind::kValue, code, __VA_ARGS__);                   \
  }

#define TORCH_MESH_CHECK_SUPPORTED(condition, code, ...)                       \
  if (!(condition)) [[unlikely]] {                                             \
    ::torch_mesh::detail::raise(                                               \
        ::torch_mesh::ErrorKind::kNotSupported, code, __VA_ARGS__);            \
  }

#define TORCH_MESH_ASSERT(condition, ...)                                      \
  if (!(condition)) [[unlikely]] {                                             \
    ::torch_mesh::detail::raise(                                               \
        ::torch_mesh::ErrorKind::kBug,                                         \
        "bug",                                                                 \
        "torch_mesh bug: ",                                                    \
        __VA_ARGS__);                                                          \
  }

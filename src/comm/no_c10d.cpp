// no_c10d.cpp: in place of c10d.cpp where torch has no torch.distributed.

#include <torch_mesh/error.h>

#include "comm/c10d.h"

namespace torch_mesh {
namespace {

[[noreturn]] void refuse() {
  detail::raise(
      ErrorKind::kNotSupported,
      "no-distributed",
      "a job of several processes: this build of torch is without "
      "torch.distributed.\nHint: install a build of torch that has it "
      "(torch.distributed.is_available()), and torch_mesh for that one.");
}

}  // namespace

std::unique_ptr<Store> store_of_group(const std::string&, const std::string&) {
  refuse();
}

std::unique_ptr<Transport> c10d_transport(
    const std::string&,
    int,
    int,
    uint64_t) {
  refuse();
}

}  // namespace torch_mesh

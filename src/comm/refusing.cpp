// refusing.cpp: a communicator for tests of what must not communicate.

#include <c10/util/Exception.h>

#include "comm/communicator.h"

namespace torch_mesh {
namespace {

[[noreturn]] void refuse(const char* what) {
  TORCH_CHECK(false, "no device may communicate now, and a test met ", what);
}

class Refusing final : public Communicator {
 public:
  std::vector<Shards> all_reduce(
      const Mesh&,
      std::span<const Step::Part>,
      AxisMask,
      const std::vector<Shards>&) override {
    refuse("all_reduce");
  }
  std::vector<Shards> reduce_scatter(Bucket) override {
    refuse("reduce_scatter");
  }
  std::vector<Shards> all_gather(Bucket) override { refuse("all_gather"); }
  std::vector<Shards> all_to_all(Bucket) override { refuse("all_to_all"); }
  void copy(const Mesh&, int, const std::vector<Copy>&) override {
    refuse("copy");
  }
};

}  // namespace

void refuse_to_communicate_for_testing(bool refuse) {
  static auto& refusing = *new Refusing;
  set_communicator_for_testing(refuse ? &refusing : nullptr);
}

}  // namespace torch_mesh

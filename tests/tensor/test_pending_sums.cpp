// test_pending_sums.cpp: pending sums that many want at once, whose collectives
// fail, and during which someone writes.

#include "tensor/pending_sums.h"

#include <atomic>
#include <barrier>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/relu.h>
#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <torch_mesh/trace.h>

#include "comm/communicator.h"
#include "comm/flat_sum.h"
#include "comm/held_locks.h"
#include "device/meshes.h"
#include "shard/local_ops.h"
#include "tensor/global_tensor.h"
#include "tensor/reduction.h"

namespace torch_mesh {
namespace {

// The one in use, with a look at each all-reduce; serves all while it lives.
class Watched final : public Communicator {
 public:
  Watched() { set_communicator_for_testing(this); }
  ~Watched() override { set_communicator_for_testing(nullptr); }

  std::function<void()> before = [] {};
  std::atomic<int64_t> num_operands{0};
  std::atomic<int64_t> num_under_locks{0};

  std::vector<Shards> all_reduce(
      const Mesh& mesh,
      std::span<const Step::Part> how,
      AxisMask cut,
      const std::vector<Shards>& operands) override {
    num_operands += static_cast<int64_t>(operands.size());
    num_under_locks += num_held_locks;
    before();
    return inner_.all_reduce(mesh, how, cut, operands);
  }
  std::vector<Shards> reduce_scatter(Bucket parts) override {
    return inner_.reduce_scatter(parts);
  }
  std::vector<Shards> all_gather(Bucket shards) override {
    return inner_.all_gather(shards);
  }
  std::vector<Shards> all_to_all(Bucket shards) override {
    return inner_.all_to_all(shards);
  }
  void copy(const Mesh& mesh, int axis, const std::vector<Copy>& copies)
      override {
    inner_.copy(mesh, axis, copies);
  }

 private:
  Communicator& inner_ = communicator_of(Mesh());
};

const Mesh& mesh() {
  static const Mesh mesh =
      mesh_of(/*separate=*/true, {{"data", 2}, {"model", 2}});
  return mesh;
}

at::Tensor value() { return at::arange(8, at::kFloat).view({4, 2}); }

// A sum of one, two, ... times the value, on the axes that are P+.
at::Tensor pending(const char* text) {
  const Layout layout = Layout::parse(mesh(), text);
  Shards shards;
  for (int lane = 0; lane < layout.lanes().num; ++lane) {
    shards.push_back(value().mul(lane + 1));
  }
  return make_global(
      layout, value().sizes(), value().strides(), at::kFloat, shards);
}

// Waits until a thread waits for the reduction of this storage: beside the
// storage and who reduces, it keeps the reduction alive.
void wait_for_a_waiter(const at::Tensor& tensor) {
  MeshStorage& storage = *MeshStorage::of(tensor);
  for (long owners = 0; owners < 3; std::this_thread::yield()) {
    std::lock_guard lock(storage.mutex);
    owners = storage.reduction().use_count();
  }
}

void on_two_threads(
    const std::function<void()>& one,
    const std::function<void()>& other) {
  const std::jthread thread(one);
  other();
}

// --- exactly once
// -------------------------------------------------------------

TEST(PendingSums, are_formed_and_counted_once_by_threads_that_come_at_once) {
  constexpr int kRounds = 10000;
  Watched watched;
  const at::Tensor sum = value().mul(10);
  at::Tensor x;
  std::atomic<int64_t> num_wrong{0};
  int64_t before = 0;
  int64_t num_other_than_one = 0;
  std::barrier begin(2, [&]() noexcept {
    x = pending("(P+, P+)");
    before = counts().collectives["all_reduce@model"];
  });
  std::barrier end(2, [&]() noexcept {
    num_other_than_one +=
        counts().collectives["all_reduce@model"] - before != 1 ? 1 : 0;
  });
  auto read_often = [&](const auto& read) {
    for (int round = 0; round < kRounds; ++round) {
      begin.arrive_and_wait();
      num_wrong += at::equal(read(), sum) ? 0 : 1;
      end.arrive_and_wait();
    }
  };
  on_two_threads(
      [&] { read_often([&] { return full(x); }); },
      [&] { read_often([&] { return full(at::relu(x)); }); });
  EXPECT_EQ(num_wrong, 0);
  EXPECT_EQ(num_other_than_one, 0);
  EXPECT_EQ(watched.num_operands, kRounds);
  EXPECT_EQ(watched.num_under_locks, 0);
}

TEST(PendingSums, of_overlapping_buckets_neither_hang_nor_run_twice) {
  constexpr int kRounds = 3000;
  Watched watched;
  std::vector<at::Tensor> all(4);
  std::atomic<int64_t> num_wrong{0};
  std::barrier begin(2, [&]() noexcept {
    for (at::Tensor& tensor : all) {
      tensor = pending("(P+, R)");
    }
  });
  auto reduce_often = [&](const std::vector<int>& named) {
    for (int round = 0; round < kRounds; ++round) {
      begin.arrive_and_wait();
      std::vector<const at::Tensor*> tensors;
      for (int i : named) {
        tensors.push_back(&all[i]);
      }
      reduce_pending(tensors);
      for (const at::Tensor* tensor : tensors) {
        num_wrong += layout_of(*tensor).has_partial() ||
                             !has_value(*tensor, value().mul(1 + 3))
                         ? 1
                         : 0;
      }
    }
    begin.arrive_and_drop();
  };
  on_two_threads(
      [&] { reduce_often({0, 1, 2}); }, [&] { reduce_often({2, 1, 3}); });
  EXPECT_EQ(num_wrong, 0);
  EXPECT_EQ(watched.num_operands, 4 * kRounds);
  EXPECT_EQ(watched.num_under_locks, 0);
}

TEST(PendingSums, of_other_axes_than_those_in_the_making_wait_for_them) {
  Watched watched;
  const at::Tensor x = pending("(P+, P+)");
  std::atomic<bool> is_first = true;
  std::atomic<bool> is_begun = false;
  watched.before = [&] {
    if (is_first.exchange(false)) {
      is_begun = true;
      is_begun.notify_all();
      wait_for_a_waiter(x);
    }
  };
  on_two_threads(
      [&] {
        is_begun.wait(false);
        reduce_pending(x, /*axes=*/2);
      },
      [&] { reduce_pending(x, /*axes=*/1); });
  EXPECT_EQ(layout_of(x).str(), "(R, R)");
  EXPECT_TRUE(has_value(x, value().mul(10)));
  EXPECT_EQ(watched.num_operands, 2);
}

TEST(PendingSums, named_twice_in_one_call_are_reduced_once) {
  Watched watched;
  const at::Tensor x = pending("(P+, P+)");
  const at::Tensor view = x.select(0, 1);
  reduce_pending({&x, &view, &x});
  EXPECT_EQ(watched.num_operands, 1);
  EXPECT_TRUE(has_value(view, value()[1].mul(10)));
}

TEST(PendingSums, in_the_making_may_be_read_as_parts) {
  Watched watched;
  const at::Tensor x = pending("(P+, R)");
  watched.before = [&] {
    const Held now = held(x);
    EXPECT_TRUE(now.layout.has_partial());
    EXPECT_TRUE(at::equal(now.shards[0].local(), value()));
  };
  reduce_pending(x, /*axes=*/1);
  EXPECT_FALSE(held(x).layout.has_partial());
}

// --- over two axes, in buckets
// ------------------------------------------------

TEST(PendingSums, over_two_axes_travel_in_one_bucket_and_three_collectives) {
  const at::Tensor a = pending("(P+, P+)");
  const at::Tensor b = pending("(P+, P+)");
  const at::Tensor c = pending("(P+, P+)");
  const Counting counting;
  reduce_pending({&a, &b, &c});
  const Counts counts = counting.so_far();
  // 24 elements: halves are 12, and halves of these 6.
  const std::map<std::string, int64_t> wanted = {
      {"reduce_scatter@data", 12 * 4},
      {"all_reduce@model", (6 + 6) * 4},
      {"all_gather@data", 12 * 4}};
  EXPECT_EQ(counts.num_bytes, wanted);
  EXPECT_EQ(counts.moved, counts.received);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(counts.moved.at("cpu:" + std::to_string(i)), 36 * 4);
  }
  for (const at::Tensor& sum : {a, b, c}) {
    EXPECT_TRUE(has_value(sum, value().mul(10)));
  }
}

TEST(PendingSums, over_other_axes_travel_apart) {
  const at::Tensor a = pending("(P+, P+)");
  const at::Tensor b = pending("(P+, R)");
  const Counting counting;
  reduce_pending({&a, &b});
  const Counts counts = counting.so_far();
  EXPECT_EQ(counts.collectives.at("all_reduce@model"), 1);
  EXPECT_EQ(counts.collectives.at("all_reduce@data"), 1);
  EXPECT_EQ(counts.moved, counts.received);
}

// --- errors
// -------------------------------------------------------------------

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST(PendingSums, that_fail_break_their_storage_and_throw_for_who_waits) {
  Watched watched;
  const at::Tensor x = pending("(P+, P+)");
  std::atomic<bool> is_begun = false;
  watched.before = [&] {
    is_begun = true;
    is_begun.notify_all();
    wait_for_a_waiter(x);
    throw std::runtime_error("the cable is cut");
  };
  std::string of_waiter;
  std::string of_first;
  on_two_threads(
      [&] {
        is_begun.wait(false);
        of_waiter = error_of([&] { at::relu(x); });
      },
      [&] { of_first = error_of([&] { at::relu(x); }); });
  EXPECT_NE(of_first.find("the cable is cut"), std::string::npos) << of_first;
  for (const std::string& text : {of_waiter, error_of([&] { full(x); })}) {
    EXPECT_NE(
        text.find("relu: a pending sum was not formed"), std::string::npos)
        << text;
    EXPECT_NE(text.find("the cable is cut"), std::string::npos) << text;
    EXPECT_NE(text.find("[broken-tensor]"), std::string::npos) << text;
  }
  watched.before = [] {};
  x.copy_(value());
  EXPECT_TRUE(has_value(x, value()));
}

TEST(PendingSums, of_other_buckets_are_let_go_when_one_fails) {
  Watched watched;
  const at::Tensor x = pending("(P+, R)");
  const at::Tensor y = pending("(R, P+)");
  watched.before = [] { throw std::runtime_error("the cable is cut"); };
  EXPECT_NE(error_of([&] { reduce_pending({&x, &y}); }), "");
  watched.before = [] {};
  EXPECT_NE(error_of([&] { full(x); }), "");
  EXPECT_EQ(MeshStorage::of(y)->reduction(), nullptr);
  EXPECT_TRUE(has_value(y, value().mul(1 + 2)));
}

// --- writes meanwhile
// ---------------------------------------------------------

class Writes : public testing::TestWithParam<const char*> {
 protected:
  // What `write` does to a sum that is in the making.
  at::Tensor written_meanwhile(
      const std::function<void(const at::Tensor&)>& write) {
    Watched watched;
    const at::Tensor x = pending(GetParam());
    std::atomic<bool> is_begun = false;
    watched.before = [&] {
      if (!is_begun.exchange(true)) {
        is_begun.notify_all();
        wait_for_a_waiter(x);
      }
    };
    on_two_threads(
        [&] {
          is_begun.wait(false);
          write(x);
        },
        [&] { reduce_pending({&x}); });
    return full(x);
  }

  at::Tensor sum() const {
    return value().mul(std::string(GetParam()) == "(P+, P+)" ? 10 : 4);
  }
};

TEST_P(Writes, in_place_are_not_lost) {
  const at::Tensor x =
      written_meanwhile([](const at::Tensor& x) { x.mul_(3); });
  EXPECT_TRUE(at::equal(x, sum().mul(3)));
}

TEST_P(Writes, to_a_view_are_not_lost) {
  at::Tensor wanted = sum();
  wanted[1].mul_(3);
  const at::Tensor x =
      written_meanwhile([](const at::Tensor& x) { x.select(0, 1).mul_(3); });
  EXPECT_TRUE(at::equal(x, wanted));
}

TEST_P(Writes, of_a_value_are_not_lost) {
  const at::Tensor x = written_meanwhile(
      [](const at::Tensor& x) { write_value(x, value().neg()); });
  EXPECT_TRUE(at::equal(x, value().neg()));
}

TEST_P(Writes, over_a_value_are_not_lost) {
  const at::Tensor x = written_meanwhile([](const at::Tensor& x) {
    const CurrentOp op("overwrite");
    overwrite_value(x, value().neg());
  });
  EXPECT_TRUE(at::equal(x, value().neg()));
}

INSTANTIATE_TEST_SUITE_P(
    Layouts,
    Writes,
    testing::Values("(P+, R)", "(P+, P+)"),
    [](const auto& info) {
      return std::string(info.param) == "(P+, R)" ? "one_axis" : "two_axes";
    });

// --- locks and memory
// ---------------------------------------------------------

TEST(HeldLocks, are_counted_by_thread) {
  CountedMutex mutex;
  {
    const std::lock_guard lock(mutex);
    EXPECT_NE(error_of([] { check_no_lock_is_held("a test"); }), "");
    std::string of_other;
    std::jthread([&] {
      EXPECT_FALSE(mutex.try_lock());
      of_other = error_of([] { check_no_lock_is_held("a test"); });
    }).join();
    EXPECT_EQ(of_other, "");
    EXPECT_NE(error_of([] { communicator_of(mesh()); }), "");
  }
  EXPECT_EQ(error_of([] { check_no_lock_is_held("a test"); }), "");
}

// Bytes of the CPU that this thread has, and had at most, since it began.
class CpuBytes final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device)
      override {
    now += size;
    peak = std::max(peak, now);
  }
  bool memoryProfilingEnabled() const override { return true; }

  int64_t now = 0;
  int64_t peak = 0;
};

TEST(PendingSums, take_two_buckets_beside_the_parts) {
  constexpr int64_t kGradients = 10;
  constexpr int64_t kBytes = 8 << 20;  // three to a bucket
  const Mesh two = mesh_of(/*separate=*/true, {{"data", 2}});
  const Layout layout = Layout::parse(two, "(P+)");
  const auto bytes = std::make_shared<CpuBytes>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, bytes);
  std::vector<at::Tensor> gradients;
  for (int64_t i = 0; i < kGradients; ++i) {
    Shards parts;
    for (int device = 0; device < two.size(); ++device) {
      parts.push_back(at::full({kBytes / 4}, 1.0, at::kFloat));
    }
    gradients.push_back(
        make_global(layout, {kBytes / 4}, {1}, at::kFloat, std::move(parts)));
  }
  const int64_t of_parts = bytes->now;
  EXPECT_EQ(of_parts, 2 * kGradients * kBytes);
  std::vector<const at::Tensor*> all;
  for (const at::Tensor& gradient : gradients) {
    all.push_back(&gradient);
  }
  reduce_pending(all);
  EXPECT_EQ(bytes->now, of_parts);
  EXPECT_LE(bytes->peak, of_parts + 2 * 2 * kBucketBytes);
}

}  // namespace
}  // namespace torch_mesh

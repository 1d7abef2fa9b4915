// Redistributions on shards: between any two layouts, in one memory and in
// memories of their own, the value stays.

#include <atomic>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include <torch_mesh/trace.h>

#include "comm/communicator_steps.h"
#include "device/meshes.h"

namespace torch_mesh {
namespace {

// Small integers: sums in any order are exact.
at::Tensor value() { return at::arange(20, at::kFloat).view({5, 4}); }

std::vector<Layout> all_layouts(const Mesh& mesh) {
  std::vector<Layout> layouts;
  for (const char* data : {"R", "S0", "S1", "P+"}) {
    for (const char* model : {"R", "S0", "S1", "P+"}) {
      const std::vector<Placement> placements{Placement::parse(data),
                                              Placement::parse(model)};
      layouts.emplace_back(mesh, placements);
    }
  }
  return layouts;
}

at::Tensor cut(const at::Tensor& whole, const Layout& layout, int device) {
  at::Tensor shard = whole;
  for (int64_t dim = 0; dim < whole.dim(); ++dim) {
    const Range range = shard_range(layout, whole.sizes().vec(), dim, device);
    shard = shard.narrow(dim, range.begin, range.length);
  }
  return shard;
}

// The shards of `whole`; where devices do not share a memory, each holds a part
// of its own of a partial sum: ones, and the first of them the rest.
Shards shards_of(const at::Tensor& whole, const Layout& layout) {
  const Mesh& mesh = layout.mesh();
  Shards shards;
  for (int device : layout.lanes().first_device) {
    bool is_first = true;
    int64_t num_parts = 1;
    for (int axis = 0; axis < mesh.num_axes(); ++axis) {
      if (layout[axis].is_partial() && !mesh.one_memory()) {
        is_first &= mesh.coordinate(device, axis) == 0;
        num_parts *= mesh.axis(axis).size;
      }
    }
    const at::Tensor shard = cut(whole, layout, device);
    shards.push_back(
        is_first ? shard.sub(static_cast<double>(num_parts - 1))
                 : at::full(shard.sizes(), 1.0));
  }
  return shards;
}

Shards move(const Shards& shards, const Layout& from, const Layout& to) {
  const std::vector<int64_t> sizes = value().sizes().vec();
  return run_redistribution(plan_redistribution(from, to, sizes, 4), shards);
}

class Collectives : public testing::TestWithParam<bool> {
 protected:
  const Mesh mesh_ = mesh_of(/*separate=*/GetParam());
  const Layout replicated_ = Layout::replicated(mesh_);
  const LocalOps local_;
};

TEST_P(Collectives, keep_the_value_between_any_two_layouts) {
  for (const Layout& from : all_layouts(mesh_)) {
    for (const Layout& to : all_layouts(mesh_)) {
      const Shards moved = move(shards_of(value(), from), from, to);
      ASSERT_EQ(static_cast<int>(moved.size()), to.lanes().num);
      for (size_t lane = 0; lane < moved.size() && !to.has_partial(); ++lane) {
        const int device = to.lanes().first_device[lane];
        EXPECT_TRUE(at::equal(moved[lane].local(), cut(value(), to, device)))
            << from.str() << " -> " << to.str() << " device " << device;
      }
      for (const Shard& replica : move(moved, to, replicated_)) {
        EXPECT_TRUE(at::equal(replica.local(), value()))
            << from.str() << " -> " << to.str() << " -> R";
      }
    }
  }
}

TEST_P(Collectives, of_many_threads_do_not_meet) {
  // Threads share mesh, layouts, the lanes that whoever comes first makes, and
  // the counters; and the source shards, which nobody writes.
  std::vector<std::pair<Layout, Shards>> sources;
  for (const Layout& from : all_layouts(mesh_)) {
    sources.emplace_back(from, shards_of(value(), from));
  }
  const Counting counting;
  std::atomic<int> num_wrong{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        const LocalOps local;
        for (size_t i = 0; i < sources.size(); ++i) {
          const auto& [from, shards] = sources[(i + t) % sources.size()];
          for (const Layout& to : all_layouts(mesh_)) {
            const Shards moved = move(shards, from, to);
            num_wrong +=
                !at::equal(move(moved, to, replicated_)[0].local(), value());
          }
        }
      });
    }
  }
  EXPECT_EQ(num_wrong, 0);
  // As many as one thread makes, eight times.
  const int64_t all = counting.so_far().collectives.at("all_reduce@data");
  const Counting alone;
  for (const auto& [from, shards] : sources) {
    for (const Layout& to : all_layouts(mesh_)) {
      move(move(shards, from, to), to, replicated_);
    }
  }
  EXPECT_EQ(all, 8 * alone.so_far().collectives.at("all_reduce@data"));
}

TEST_P(Collectives, are_counted_alike_in_both_kinds_of_memory) {
  const Layout from = Layout::parse(mesh_, "(P+, S1)");
  const Counting counting;
  move(shards_of(value(), from), from, replicated_);
  const Counts counts = counting.so_far();
  EXPECT_EQ(counts.collectives.at("all_reduce@data"), 1);
  EXPECT_EQ(counts.collectives.at("all_gather@model"), 1);
  EXPECT_EQ(counts.events.size(), 2u);
}

TEST_P(Collectives, slices_and_new_partials_are_not_counted) {
  const Counting counting;
  move(
      shards_of(value(), replicated_),
      replicated_,
      Layout::parse(mesh_, "(S0, P+)"));
  EXPECT_TRUE(counting.so_far().collectives.empty());
}

TEST_P(Collectives, half_sums_are_rounded_once) {
  const Mesh mesh = mesh_of(GetParam(), {{"data", 5}});
  // One by one in float16, 2048 + 1 stays 2048.
  Shards parts;
  parts.push_back(at::full({3}, 2048, at::kHalf));
  for (int i = 1; i < 5; ++i) {
    parts.push_back(at::full({3}, 1, at::kHalf));
  }
  const Shards folded =
      fold_lanes(mesh, /*fine=*/1, /*coarse=*/0, /*summed=*/1, parts);
  at::Tensor sum = folded[0].local();
  if (folded.size() > 1) {
    const Layout partial = Layout::parse(mesh, "(P+)");
    sum =
        run_redistribution(
            plan_redistribution(
                partial, Layout::replicated(mesh), std::vector<int64_t>{3}, 2),
            folded)[0]
            .local();
  }
  EXPECT_TRUE(at::equal(sum, at::full({3}, 2052, at::kHalf)));
}

INSTANTIATE_TEST_SUITE_P(
    Memories,
    Collectives,
    testing::Values(false, true),
    [](const auto& info) { return info.param ? "separate" : "one"; });

}  // namespace
}  // namespace torch_mesh

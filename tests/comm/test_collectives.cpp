// Redistributions on shards: between any two layouts, in one memory and in
// memories of their own, the value stays.

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include <torch_mesh/trace.h>

#include "comm/communicator.h"
#include "comm/fold.h"
#include "comm/run_steps.h"
#include "core/groups.h"
#include "device/meshes.h"
#include "shard/local_ops.h"

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

const std::vector<Step::Part> kAlong0 = {{Step::Kind::kAllReduce, 0}};

enum class Memories { kOne, kOneEach, kBoxes };

Mesh mesh_with(
    Memories memories,
    std::vector<Mesh::Axis> axes = {{"data", 2}, {"model", 3}}) {
  return memories == Memories::kBoxes
             ? mesh_of_boxes(std::move(axes))
             : mesh_of(memories == Memories::kOneEach, std::move(axes));
}

// The shards of `whole`; of a partial sum each memory along its axis holds a
// part of its own: ones, and the first of them the rest.
Shards shards_of(const at::Tensor& whole, const Layout& layout) {
  const Mesh& mesh = layout.mesh();
  Shards shards;
  for (int device : layout.lanes().first_device) {
    bool is_first = true;
    int64_t num_parts = 1;
    for (int axis = 0; axis < mesh.num_axes(); ++axis) {
      if (layout[axis].is_partial()) {
        const std::vector<int> parts =
            parts_of(mesh, axis, layout.lanes(), device);
        is_first &= parts[0] == layout.lanes().lane_of_device[device];
        num_parts *= static_cast<int64_t>(parts.size());
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

class Collectives : public testing::TestWithParam<Memories> {
 protected:
  const Mesh mesh_ = mesh_with(GetParam());
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
  const Mesh mesh = mesh_with(GetParam(), {{"data", 5}});
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

TEST_P(Collectives, move_the_bytes_that_their_steps_say) {
  const Counting all;
  for (const Layout& from : all_layouts(mesh_)) {
    for (const Layout& to : all_layouts(mesh_)) {
      const Counting counting;
      move(shards_of(value(), from), from, to);
      const Counts counts = counting.so_far();
      EXPECT_EQ(counts.moved, counts.received)
          << from.str() << " -> " << to.str();
      if (GetParam() != Memories::kOneEach) {
        continue;
      }
      // With a memory each, the most that any device receives is the step's.
      int64_t most = 0;
      int64_t total = 0;
      for (const auto& [device, num_bytes] : counts.moved) {
        most = std::max(most, num_bytes);
      }
      for (const auto& [kind, num_bytes] : counts.num_bytes) {
        total += num_bytes;
      }
      EXPECT_LE(most, total) << from.str() << " -> " << to.str();
      if (counts.collectives.size() == 1) {
        EXPECT_EQ(most, total) << from.str() << " -> " << to.str();
      }
    }
  }
  EXPECT_EQ(all.so_far().moved.empty(), GetParam() == Memories::kOne);
}

TEST(AllReduce, of_eight_memories_is_a_ring) {
  const Mesh mesh = mesh_of(/*separate=*/true, {{"data", 8}});
  const LocalOps local;
  Shards parts;
  for (int i = 0; i < 8; ++i) {
    parts.push_back(at::full({64}, i, at::kFloat));
  }
  const Counting counting;
  const Shards sums =
      communicator_of(mesh).all_reduce(mesh, kAlong0, /*cut=*/0, {parts})[0];
  for (const Shard& sum : sums) {
    EXPECT_TRUE(at::equal(sum.local(), at::full({64}, 28, at::kFloat)));
    EXPECT_TRUE(sum.is_all_of_its_memory());
  }
  // 14 pieces of an eighth for each device, not 7 tensors.
  const Counts counts = counting.so_far();
  EXPECT_EQ(counts.moved.size(), 8u);
  for (const auto& [device, num_bytes] : counts.moved) {
    EXPECT_EQ(num_bytes, 14 * 8 * 4) << device;
  }
}

TEST(AllReduce, of_many_operands_gives_each_its_sum_and_strides) {
  const Mesh mesh = mesh_of(/*separate=*/true, {{"data", 3}});
  const LocalOps local;
  const at::Tensor rows = at::arange(6, at::kFloat).view({2, 3});
  const at::Tensor columns = at::arange(8, at::kFloat).view({4, 2}).t();
  const at::Tensor none = at::full({0, 2}, 1, at::kFloat);
  const at::Tensor number = at::full({}, 5, at::kFloat);
  std::vector<Shards> operands;
  for (const at::Tensor& value : {rows, columns, none, number}) {
    // The last member holds its part in rows: all are packed as the first is.
    operands.push_back({value, value.mul(2), value.contiguous()});
  }
  const std::vector<Shards> sums =
      communicator_of(mesh).all_reduce(mesh, kAlong0, /*cut=*/0, operands);
  for (size_t k = 0; k < operands.size(); ++k) {
    for (const Shard& sum : sums[k]) {
      const at::Tensor& value = operands[k][0].local();
      EXPECT_TRUE(at::equal(sum.local(), value.mul(4)));
      EXPECT_EQ(sum.strides(), value.strides());
    }
  }
}

TEST(AllReduce, leaves_the_parts_as_they_are) {
  const Mesh mesh = mesh_of(/*separate=*/true, {{"data", 2}});
  const LocalOps local;
  const Shards parts = {at::full({3}, 1.0), at::full({3}, 2.0)};
  communicator_of(mesh).all_reduce(mesh, kAlong0, /*cut=*/0, {parts});
  EXPECT_TRUE(at::equal(parts[0].local(), at::full({3}, 1.0)));
  EXPECT_TRUE(at::equal(parts[1].local(), at::full({3}, 2.0)));
}

// --- sums over several axes
// ---------------------------------------------------

struct SumOverTwoAxes {
  Shards sums;
  Counts counts;
};

// Of a part of `numel` ones on each device, times its number and one.
SumOverTwoAxes sum_over_two_axes(
    const Mesh& mesh,
    int64_t numel,
    at::ScalarType dtype = at::kFloat) {
  const Layout partial = Layout::parse(mesh, "(P+, P+)");
  Shards parts;
  for (int device : partial.lanes().first_device) {
    parts.push_back(at::full({numel}, device + 1, dtype));
  }
  const LocalOps local;
  const Counting counting;
  Shards sums = run_redistribution(
      plan_redistribution(
          partial,
          Layout::replicated(mesh),
          std::vector<int64_t>{numel},
          static_cast<int64_t>(c10::elementSize(dtype))),
      parts);
  return {std::move(sums), counting.so_far()};
}

TEST(SumsOverTwoAxes, of_64_memories_bring_an_eighth_to_the_second) {
  const Mesh mesh = mesh_of(/*separate=*/true, {{"data", 8}, {"model", 8}});
  const auto [sums, counts] = sum_over_two_axes(mesh, 4096);
  for (const Shard& sum : sums) {
    EXPECT_TRUE(at::equal(sum.local(), at::full({4096}, 64 * 65 / 2.0)));
    EXPECT_TRUE(sum.is_all_of_its_memory());
  }
  const std::map<std::string, int64_t> wanted = {
      {"reduce_scatter@data", 7 * 512 * 4},
      {"all_reduce@model", 14 * 64 * 4},
      {"all_gather@data", 7 * 512 * 4}};
  EXPECT_EQ(counts.num_bytes, wanted);
  EXPECT_EQ(counts.moved, counts.received);
  EXPECT_EQ(counts.moved.size(), 64u);
  for (const auto& [device, num_bytes] : counts.moved) {
    EXPECT_EQ(num_bytes, 14 * 512 * 4 + 14 * 64 * 4) << device;
  }
}

TEST(SumsOverTwoAxes, of_uneven_and_empty_pieces_are_counted_to_the_byte) {
  const Mesh mesh = mesh_of(/*separate=*/true, {{"data", 2}, {"model", 2}});
  // Halves of 7 are 4 and 3; halves of these 2 and 2, 2 and 1.
  const auto [sums, counts] = sum_over_two_axes(mesh, 7);
  for (const Shard& sum : sums) {
    EXPECT_TRUE(at::equal(sum.local(), at::full({7}, 10.0)));
  }
  const std::map<std::string, int64_t> wanted = {
      {"cpu:0", (4 + (2 + 2) + 3) * 4},
      {"cpu:1", (4 + (2 + 2) + 3) * 4},
      {"cpu:2", (3 + (2 + 1) + 4) * 4},
      {"cpu:3", (3 + (1 + 2) + 4) * 4}};
  EXPECT_EQ(counts.moved, wanted);
  EXPECT_EQ(counts.received, wanted);
}

TEST(SumsOverTwoAxes, of_few_elements_leave_devices_without_a_piece) {
  const Mesh mesh = mesh_of(/*separate=*/true, {{"data", 8}, {"model", 8}});
  for (int64_t numel : {0, 1, 2, 3, 9, 17}) {
    const auto [sums, counts] = sum_over_two_axes(mesh, numel);
    for (const Shard& sum : sums) {
      EXPECT_TRUE(at::equal(sum.local(), at::full({numel}, 64 * 65 / 2.0)));
    }
    EXPECT_EQ(counts.moved, counts.received) << numel;
  }
}

TEST(SumsOverTwoAxes, of_two_memories_move_between_these_alone) {
  for (bool rows : {true, false}) {
    set_memories_for_testing(
        rows ? std::vector{0, 0, 1, 1} : std::vector{0, 1, 0, 1});
    const Mesh mesh(std::vector<Mesh::Axis>{{"data", 2}, {"model", 2}});
    set_memories_for_testing({});
    const auto [sums, counts] = sum_over_two_axes(mesh, 7);
    EXPECT_EQ(sums.size(), 2u);
    for (const Shard& sum : sums) {
      // The parts of the first devices, 0 and 2 or 0 and 1.
      EXPECT_TRUE(at::equal(sum.local(), at::full({7}, rows ? 4.0 : 3.0)));
    }
    // A ring of two: along the other axis all is in one memory.
    const std::map<std::string, int64_t> wanted = {
        {"cpu:0", 7 * 4}, {rows ? "cpu:2" : "cpu:1", 7 * 4}};
    EXPECT_EQ(counts.moved, wanted);
    EXPECT_EQ(counts.received, wanted);
  }
}

TEST(SumsOverTwoAxes, of_halves_are_rounded_once_for_each_axis) {
  const Mesh mesh = mesh_of(/*separate=*/true, {{"data", 2}, {"model", 3}});
  const LocalOps local;
  const Layout partial = Layout::parse(mesh, "(P+, P+)");
  // Between 2048 and 2050 there is nothing in float16: along `data` the sums
  // are 2049, rounded to 2048, and 2 and 2; along `model` 2052.
  const std::vector<double> values = {2048, 1, 1, 1, 1, 1};
  Shards parts;
  for (double value : values) {
    parts.push_back(at::full({12}, value, at::kHalf));
  }
  const Shards sums = run_redistribution(
      plan_redistribution(
          partial, Layout::replicated(mesh), std::vector<int64_t>{12}, 2),
      parts);
  for (const Shard& sum : sums) {
    EXPECT_TRUE(at::equal(sum.local(), at::full({12}, 2052, at::kHalf)));
  }
}

TEST(SumsOverTwoAxes, in_one_memory_move_nothing_and_are_counted_alike) {
  const Mesh one = mesh_of(/*separate=*/false, {{"data", 2}, {"model", 2}});
  const Mesh four = mesh_of(/*separate=*/true, {{"data", 2}, {"model", 2}});
  const Counts counts = sum_over_two_axes(one, 7).counts;
  EXPECT_EQ(counts.num_bytes, sum_over_two_axes(four, 7).counts.num_bytes);
  EXPECT_TRUE(counts.moved.empty());
  EXPECT_TRUE(counts.received.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Memories,
    Collectives,
    testing::Values(Memories::kOne, Memories::kOneEach, Memories::kBoxes),
    [](const auto& info) {
      return info.param == Memories::kOne       ? "one"
             : info.param == Memories::kOneEach ? "one_each"
                                                : "boxes";
    });

}  // namespace
}  // namespace torch_mesh

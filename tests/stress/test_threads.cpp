// test_threads.cpp: what many threads share without torch: the plan cache,
// interned meshes and layouts, the table of rules, the counters.
//
// Made for ThreadSanitizer; the values are checked as well.

#include <atomic>
#include <functional>
#include <latch>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <torch_mesh/redistribute.h>
#include <torch_mesh/rule.h>

#include "plan/plan.h"
#include "plan/plan_cache.h"
#include "trace/counters.h"

namespace torch_mesh {
namespace {

constexpr int kThreads = 8;

// Runs `body(thread)` on all threads, which begin together.
void on_threads(const std::function<void(int thread)>& body) {
  std::latch begin(kThreads);
  std::vector<std::jthread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      begin.arrive_and_wait();
      body(t);
    });
  }
}

// --- the plan cache ----------------------------------------------------------

// Says for which key it was made.
struct Made {
  std::vector<uint64_t> key;
};

std::vector<uint64_t> key_of(int number) {
  std::vector<uint64_t> key(1 + number % 3, 7);
  key.back() = static_cast<uint64_t>(number);
  return key;
}

void hammer(PlanCache<Made>& cache, uint64_t hash_mask, bool may_clear) {
  std::atomic<int> num_wrong{0};
  std::atomic<int> num_found{0};
  on_threads([&](int thread) {
    for (int round = 0; round < 4000; ++round) {
      // Twice in a row: found also where a small cache keeps little and the
      // threads happen to run one after the other.
      const int number = (round / 2 * 7 + thread) % 97;
      const std::vector<uint64_t> key = key_of(number);
      const uint64_t hash = hash_of(key) & hash_mask;
      std::shared_ptr<const Made> found = cache.find(key, hash);
      if (found) {
        ++num_found;
        num_wrong += found->key != key;
      } else {
        cache.insert(key, hash, std::make_shared<const Made>(Made{key}));
      }
      if (may_clear && round % 512 == thread) {
        cache.clear();
      }
      // An entry that was found outlives the cache's.
      num_wrong += found && found->key != key;
    }
  });
  EXPECT_EQ(num_wrong, 0);
  EXPECT_GT(num_found, 0);
}

TEST(PlanCacheOnThreads, GivesEachKeyItsOwnPlan) {
  PlanCache<Made> cache;
  hammer(cache, ~uint64_t{0}, /*may_clear=*/false);
  EXPECT_EQ(cache.size(), 97u);
}

TEST(PlanCacheOnThreads, StaysBoundedWhileItOverflows) {
  PlanCache<Made> cache(/*max_entries=*/16);
  hammer(cache, ~uint64_t{0}, /*may_clear=*/true);
  EXPECT_LE(cache.size(), 16u);
}

TEST(PlanCacheOnThreads, TellsKeysOfOneHashApart) {
  PlanCache<Made> cache(/*max_entries=*/64);
  hammer(cache, /*hash_mask=*/3, /*may_clear=*/true);
}

// --- interned values ---------------------------------------------------------

std::string line_name(int round) { return "x" + std::to_string(round % 13); }

TEST(InternedOnThreads, EqualMeshesAreOne) {
  std::vector<std::vector<Mesh>> made(kThreads);
  on_threads([&](int thread) {
    for (int round = 0; round < 200; ++round) {
      const Mesh mesh({{line_name(round), 1 + round % 5}, {"model", 2}});
      made[thread].push_back(mesh);
      // The lanes are made by whoever asks first.
      const Lanes& lanes = mesh.lanes(static_cast<AxisMask>(round % 4));
      EXPECT_EQ(lanes.first_device.size(), static_cast<size_t>(lanes.num));
    }
  });
  for (const std::vector<Mesh>& meshes : made) {
    EXPECT_EQ(meshes, made[0]);
    EXPECT_EQ(&meshes[3].lanes(1), &made[0][3].lanes(1));
  }
}

TEST(InternedOnThreads, EqualLayoutsAreOneAndHaveIdsOfTheirOwn) {
  const Mesh mesh({{"data", 3}, {"model", 2}});
  std::vector<std::vector<Layout>> made(kThreads);
  on_threads([&](int thread) {
    for (int round = 0; round < 400; ++round) {
      const int dim = round % 100;
      const Layout layout = Layout::parse(
          mesh,
          "(S" + std::to_string(dim) + ", " + (round % 2 == 0 ? "R" : "P+") +
              ")");
      made[thread].push_back(layout.with(1, Placement::shard(dim + 1)));
      made[thread].push_back(layout);
      EXPECT_EQ(layout.lanes().lane_of_device.size(), 6u);
    }
  });
  std::set<uint32_t> ids;
  std::set<std::string> texts;
  for (const Layout& layout : made[0]) {
    ids.insert(layout.id());
    texts.insert(layout.str());
  }
  EXPECT_EQ(ids.size(), texts.size());
  for (const std::vector<Layout>& layouts : made) {
    EXPECT_EQ(layouts, made[0]);
  }
}

TEST(PlannersOnThreads, MakeTheSamePlans) {
  const Mesh mesh({{"data", 3}, {"model", 2}});
  const std::vector<int64_t> sizes = {7, 12};
  const std::vector<const char*> texts = {
      "(S0, S1)", "(S1, S0)", "(P+, S0)", "(R, R)", "(S0, S0)", "(R, P+)"};
  std::vector<std::vector<std::string>> plans(kThreads);
  on_threads([&](int thread) {
    for (const char* from : texts) {
      for (const char* to : texts) {
        plans[thread].push_back(plan_redistribution(
                                    Layout::parse(mesh, from),
                                    Layout::parse(mesh, to),
                                    sizes,
                                    /*itemsize=*/4)
                                    .str());
      }
    }
  });
  for (const std::vector<std::string>& others : plans) {
    EXPECT_EQ(others, plans[0]);
  }
}

// --- rules -------------------------------------------------------------------

TEST(RulesOnThreads, AreFoundWhileOthersAreRegistered) {
  std::atomic<int> num_wrong{0};
  on_threads([&](int thread) {
    const std::string name = "stress::op" + std::to_string(thread);
    for (int round = 0; round < 300; ++round) {
      if (round % 10 == 0) {
        register_rule(name, round % 20 == 0 ? "a b -> a" : "a b -> b");
        num_wrong += rule_names().empty();
      }
      const std::shared_ptr<const Rule> rule = find_rule(name);
      num_wrong += rule->str() != (round % 20 < 10 ? "a b -> a" : "a b -> b");
      num_wrong += find_rule("aten::mm") == nullptr;
      num_wrong += find_rule("stress::none") != nullptr;
    }
  });
  EXPECT_EQ(num_wrong, 0);
}

// --- counters ----------------------------------------------------------------

TEST(CountersOnThreads, LoseNothing) {
  constexpr int kRounds = 500;
  const Mesh mesh({{"data", 2}});
  const Step reduce{.kind = Step::Kind::kAllReduce,
                    .axis = 0,
                    .from = Placement::partial(),
                    .to = Placement::replicate(),
                    .num_bytes = 3,
                    .after = Layout::replicated(mesh)};
  const Step slice{.kind = Step::Kind::kSlice,
                   .axis = 0,
                   .from = Placement::replicate(),
                   .to = Placement::shard(0),
                   .num_bytes = 0,
                   .after = Layout::parse(mesh, "(S0)")};
  const Counting all;
  on_threads([&](int thread) {
    const std::string name = "stress::count" + std::to_string(thread % 2);
    for (int round = 0; round < kRounds; ++round) {
      const CurrentOp current(name);
      EXPECT_EQ(CurrentOp::name(), name);
      count_op();
      count_plan();
      count_replicated(name);
      count_step(reduce);
      count_step(slice);
      count_moved(mesh, /*device=*/1, /*num_bytes=*/5);
    }
  });
  const Counts counts = all.so_far();
  EXPECT_EQ(counts.ops, kThreads * kRounds);
  EXPECT_EQ(counts.plans_made, kThreads * kRounds);
  EXPECT_EQ(counts.collectives.at("all_reduce@data"), kThreads * kRounds);
  EXPECT_EQ(counts.num_bytes.at("all_reduce@data"), 3 * kThreads * kRounds);
  EXPECT_EQ(counts.moved.at("cpu:1"), 5 * kThreads * kRounds);
  EXPECT_EQ(counts.replicated_ops.at("stress::count0"), kThreads * kRounds / 2);
  EXPECT_EQ(counts.events.size(), static_cast<size_t>(kThreads * kRounds));
  EXPECT_EQ(counts.collectives.count("slice@data"), 0u);
}

TEST(CountersOnThreads, CountWhileOthersBeginAndEnd) {
  const Mesh mesh({{"model", 2}});
  std::atomic<int> num_wrong{0};
  on_threads([&](int thread) {
    for (int round = 0; round < 200; ++round) {
      const Counting mine;
      count_collective(Step::Kind::kAllGather, mesh, 0, /*num_bytes=*/1, {});
      const Counts counts = mine.so_far();
      // What others do is counted too, so "at least" is all there is to say.
      num_wrong += counts.collectives.at("all_gather@model") < 1;
      num_wrong += counts.events.empty();
      set_log_level(0);
      num_wrong += log_level() != 0;
    }
  });
  EXPECT_EQ(num_wrong, 0);
}

}  // namespace
}  // namespace torch_mesh

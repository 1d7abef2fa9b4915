// test_redistribution.cpp: plans of redistributions, named and random ones.

#include <torch_mesh/redistribute.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <random>

#include <gtest/gtest.h>

#include "core/error_of.h"
#include "plan/simulation.h"

namespace torch_mesh {
namespace {

using simulated::Numbers;
using simulated::Simulation;
using simulated::Sizes;

// --- named cases -------------------------------------------------------------

struct Case {
  const char* about;
  std::vector<Mesh::Axis> axes;
  const char* from;
  const char* to;
  Sizes sizes;
  const char* steps;

  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.about << ": " << c.from << " -> " << c.to;
  }
};

class Steps : public testing::TestWithParam<Case> {};

TEST_P(Steps, AreTheCheapest) {
  const Case& c = GetParam();
  const Mesh mesh(c.axes);
  const Redistribution plan = plan_redistribution(
      Layout::parse(mesh, c.from),
      Layout::parse(mesh, c.to),
      c.sizes,
      /*itemsize=*/4);
  EXPECT_EQ(plan.str(), c.steps);
}

const std::vector<Mesh::Axis> kLine = {{"x", 4}};
const std::vector<Mesh::Axis> kGrid = {{"data", 2}, {"model", 2}};

INSTANTIATE_TEST_SUITE_P(
    OnOneAxis,
    Steps,
    testing::Values(
        Case{"nothing to do", kLine, "(S0)", "(S0)", {8}, ""},
        Case{"a slice is free", kLine, "(R)", "(S0)", {8}, "slice@x 0 B"},
        Case{"3 of 4 parts", kLine, "(S0)", "(R)", {8}, "all_gather@x 24 B"},
        Case{"the last device has 1 of 7 and gets 6",
             kLine,
             "(S0)",
             "(R)",
             {7},
             "all_gather@x 24 B"},
        Case{"a device without elements gets all",
             kLine,
             "(S0)",
             "(R)",
             {2, 3},
             "all_gather@x 24 B"},
        Case{"nothing moves if there is nothing",
             kLine,
             "(S0)",
             "(R)",
             {0, 3},
             "all_gather@x 0 B"},
        Case{"a sum goes round the ring twice",
             kLine,
             "(P+)",
             "(R)",
             {8},
             "all_reduce@x 48 B"},
        Case{"a sum without dims",
             kLine,
             "(P+)",
             "(R)",
             {},
             "all_reduce@x 12 B"},
        Case{"a sum that stays cut goes once",
             kLine,
             "(P+)",
             "(S0)",
             {8},
             "reduce_scatter@x 24 B"},
        Case{"parts are made of a replica for free",
             kLine,
             "(R)",
             "(P+)",
             {8},
             "to_partial@x 0 B"},
        Case{"a shard is gathered before it is a part",
             kLine,
             "(S0)",
             "(P+)",
             {8},
             "all_gather@x 24 B, to_partial@x 0 B"},
        Case{"another dim: 3 of 4 parts of the shard",
             kLine,
             "(S0)",
             "(S1)",
             {8, 4},
             "all_to_all@x 24 B"},
        Case{"other blocks of one dim are gathered",
             kLine,
             "(S0)",
             "(S0/4)",
             {8},
             "all_gather@x 24 B, slice@x 0 B"},
        Case{"another dim, in blocks",
             kLine,
             "(S0/4)",
             "(S1/4)",
             {8, 4},
             "all_to_all@x 24 B"}));

INSTANTIATE_TEST_SUITE_P(
    OnTwoAxes,
    Steps,
    testing::Values(
        Case{"a slice first leaves less to gather",
             kGrid,
             "(R, S1)",
             "(S0, R)",
             {4, 6},
             "slice@data 0 B, all_gather@model 24 B"},
        Case{"one dim: the outer axis waits for the inner",
             kGrid,
             "(R, S0)",
             "(S0, R)",
             {8},
             "all_gather@model 16 B, slice@data 0 B"},
        Case{"one dim: the inner axis is gathered first",
             kGrid,
             "(S0, S0)",
             "(R, R)",
             {8},
             "all_gather@model 8 B, all_gather@data 16 B"},
        Case{"one dim: the inner axis is undone and done again",
             kGrid,
             "(S0, S0)",
             "(R, S0)",
             {8},
             "all_gather@model 8 B, all_gather@data 16 B, slice@model 0 B"},
        Case{"two dims are gathered in the order of the mesh",
             kGrid,
             "(S0, S1)",
             "(R, R)",
             {4, 8},
             "all_gather@data 32 B, all_gather@model 64 B"},
        Case{"a sum is taken of shards, and these are gathered",
             kGrid,
             "(P+, S0)",
             "(R, R)",
             {8},
             "all_reduce@data 16 B, all_gather@model 16 B"},
        Case{"an open sum stays open",
             kGrid,
             "(S0, P+)",
             "(R, P+)",
             {8},
             "all_gather@data 16 B"},
        Case{"a sum is scattered before it is reduced",
             kGrid,
             "(P+, P+)",
             "(S0, R)",
             {8},
             "reduce_scatter@data 16 B, all_reduce@model 16 B"},
        Case{"a sum over both axes is reduced of halves on the second",
             kGrid,
             "(P+, P+)",
             "(R, R)",
             {8},
             "reduce_scatter@data 16 B, all_reduce@model 16 B, "
             "all_gather@data 16 B"},
        Case{"halves of 7 are 4 and 3",
             kGrid,
             "(P+, P+)",
             "(R, R)",
             {7},
             "reduce_scatter@data 16 B, all_reduce@model 16 B, "
             "all_gather@data 16 B"},
        Case{"a number over both axes is reduced twice",
             kGrid,
             "(P+, P+)",
             "(R, R)",
             {},
             "all_reduce@data 4 B, all_reduce@model 4 B"},
        Case{"nothing is not scattered",
             kGrid,
             "(P+, P+)",
             "(R, R)",
             {0, 3},
             "all_reduce@data 0 B, all_reduce@model 0 B"},
        Case{"parts are made at the end",
             kGrid,
             "(R, R)",
             "(P+, S0)",
             {8},
             "slice@model 0 B, to_partial@data 0 B"},
        Case{"swapped dims make room for each other",
             kGrid,
             "(S0, S1)",
             "(S1, S0)",
             {4, 4},
             "all_gather@model 16 B, all_to_all@data 16 B, slice@model 0 B"}));

INSTANTIATE_TEST_SUITE_P(
    OnAnAxisOfSizeOne,
    Steps,
    testing::Values(
        Case{"a gather", {{"x", 1}}, "(S0)", "(R)", {8}, "all_gather@x 0 B"},
        Case{"a sum", {{"x", 1}}, "(P+)", "(R)", {8}, "all_reduce@x 0 B"},
        Case{"an inner axis of size 1 is in nobody's way",
             {{"x", 2}, {"one", 1}},
             "(S0, S0)",
             "(R, S0)",
             {8},
             "all_gather@x 16 B"},
        Case{"a block is undone before its dim gets too short for it",
             {{"x", 2}, {"one", 1}},
             "(R, S0/8)",
             "(S0, R)",
             {8},
             "all_gather@one 0 B, slice@x 0 B"}));

TEST(Redistribution, ToTheSameLayoutHasNoSteps) {
  const Layout layout = Layout::parse(Mesh(kGrid), "(P+, S0)");
  const Redistribution plan = plan_redistribution(layout, layout, Sizes{8}, 4);
  EXPECT_TRUE(plan.steps.empty());
  EXPECT_EQ(plan.num_bytes(), 0);
}

TEST(Redistribution, AddsUpItsBytes) {
  const Mesh mesh(kGrid);
  const Redistribution plan = plan_redistribution(
      Layout::parse(mesh, "(S0, S0)"), Layout::replicated(mesh), Sizes{8}, 4);
  EXPECT_EQ(plan.num_bytes(), 24);
}

TEST(Redistribution, CountsBytesByTheSizeOfItems) {
  const Mesh mesh(kLine);
  const Redistribution plan = plan_redistribution(
      Layout::parse(mesh, "(S0)"), Layout::replicated(mesh), Sizes{8}, 1);
  EXPECT_EQ(plan.num_bytes(), 6);
}

TEST(Redistribution, BetweenTwoMeshesIsRefused) {
  const Layout from = Layout::parse(Mesh(kLine), "(S0)");
  const Layout to = Layout::parse(Mesh(kGrid), "(S0, R)");
  EXPECT_EQ(
      error_of([&] { plan_redistribution(from, to, Sizes{8}, 4); }),
      "redistribute: the layouts are on two meshes.\n"
      "  from    (S0) on x=4\n"
      "  to      (S0, R) on data=2 model=2\n"
      "Hint: bring the tensor to one device, and distribute it over the other "
      "mesh. [redistribute-mesh]");
}

TEST(Redistribution, ToADimThatIsNotThereIsRefused) {
  const Mesh mesh(kLine);
  EXPECT_EQ(
      error_code_of([&] {
        plan_redistribution(
            Layout::replicated(mesh), Layout::parse(mesh, "(S1)"), Sizes{8}, 4);
      }),
      "layout-dim");
}

TEST(Redistribution, OnEightAxesIsFound) {
  std::vector<Mesh::Axis> axes;
  for (char c = 'a'; c < 'i'; ++c) {
    axes.push_back({std::string(1, c), 2});
  }
  const Mesh mesh(axes);
  const Redistribution plan = plan_redistribution(
      Layout::parse(mesh, "(S0, S0, S0, S0, S1, S1, S1, S1)"),
      Layout::parse(mesh, "(S1, S1, S1, S1, S0, S0, S0, S0)"),
      Sizes{16, 16},
      4);
  EXPECT_EQ(plan.steps.back().after, plan.to);
}

TEST(Step, CommunicatesUnlessItIsASliceOrMakesParts) {
  using Kind = Step::Kind;
  auto communicates = [](Kind kind) {
    return Step{kind, 0, {}, {}, 0, Layout()}.communicates();
  };
  EXPECT_FALSE(communicates(Kind::kSlice));
  EXPECT_FALSE(communicates(Kind::kToPartial));
  EXPECT_TRUE(communicates(Kind::kAllGather));
  EXPECT_TRUE(communicates(Kind::kAllReduce));
  EXPECT_TRUE(communicates(Kind::kReduceScatter));
  EXPECT_TRUE(communicates(Kind::kAllToAll));
}

TEST(FormatBytes, TakesTheLargestUnitThatFits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(int64_t{25} << 20), "25 MiB");
}

// --- random layouts ----------------------------------------------------------

class Draw {
 public:
  explicit Draw(uint64_t seed) : random_(seed) {}

  std::mt19937_64& random() { return random_; }

  int64_t below(int64_t end) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(end));
  }

  Mesh mesh(int num_axes) {
    std::vector<Mesh::Axis> axes;
    for (int a = 0; a < num_axes; ++a) {
      axes.push_back(
          {std::string(1, static_cast<char>('a' + a)), 1 + below(4)});
    }
    return Mesh(axes);
  }

  // Small or large, with an eye to sizes that blocks divide.
  Sizes sizes() {
    static const Sizes kSizes = {0, 1, 2, 3, 5, 7, 8, 12, 13, 16, 24};
    Sizes result(1 + below(3));
    for (int64_t& size : result) {
      size = kSizes[below(static_cast<int64_t>(kSizes.size()))];
    }
    return result;
  }

  Numbers numbers(const Sizes& sizes) {
    Numbers result = Numbers::zeros(sizes);
    for (uint64_t& value : result.values) {
      value = random_();
    }
    return result;
  }

  // A layout that is valid for `sizes`.
  Layout layout(const Mesh& mesh, const Sizes& sizes) {
    while (true) {
      std::vector<Placement> placements;
      for (int a = 0; a < mesh.num_axes(); ++a) {
        placements.push_back(placement(mesh.axis(a).size, sizes));
      }
      const Layout layout(mesh, placements);
      if (error_of([&] { check_layout(layout, sizes); }).empty()) {
        return layout;
      }
    }
  }

 private:
  Placement placement(int64_t n, const Sizes& sizes) {
    const int64_t dim = below(static_cast<int64_t>(sizes.size()));
    switch (below(6)) {
      case 0:
        return Placement::replicate();
      case 1:
        return Placement::partial();
      case 2:
      case 3:
        return Placement::shard(dim, n * (1 + below(4)));
      default:
        return Placement::shard(dim);
    }
  }

  std::mt19937_64 random_;
};

struct Drawn {
  Sizes sizes;
  Layout from;
  Layout to;
  Numbers whole;
  Redistribution plan;

  std::string str() const {
    std::string text = from.mesh().str() + " [";
    for (int64_t size : sizes) {
      text += " " + std::to_string(size);
    }
    return text + " ] " + from.str() + " -> " + to.str() + ": " + plan.str();
  }
};

// --- properties --------------------------------------------------------------

constexpr int64_t kItemsize = 2;

class RandomLayouts : public testing::TestWithParam<int> {
 protected:
  // Calls f(drawn, draw) for some hundred random redistributions.
  template <typename F>
  void for_each(F f) {
    Draw draw(/*seed=*/20 + GetParam());
    for (int round = 0; round < 400; ++round) {
      Drawn drawn;
      const Mesh mesh = draw.mesh(GetParam());
      drawn.sizes = draw.sizes();
      drawn.from = draw.layout(mesh, drawn.sizes);
      drawn.to = draw.layout(mesh, drawn.sizes);
      drawn.whole = draw.numbers(drawn.sizes);
      drawn.plan =
          plan_redistribution(drawn.from, drawn.to, drawn.sizes, kItemsize);
      f(drawn, draw);
      if (HasFailure()) {
        FAIL() << drawn.str();
      }
    }
  }
};

TEST_P(RandomLayouts, EndWithTheValuesOfTheLayoutAskedFor) {
  for_each([](const Drawn& drawn, Draw& draw) {
    Simulation simulation(drawn.whole, drawn.from, draw.random());
    for (const Step& step : drawn.plan.steps) {
      simulation.run(step);
    }
    const Simulation wanted(drawn.whole, drawn.to, draw.random());
    EXPECT_TRUE(simulation.agrees_with(wanted));
  });
}

TEST_P(RandomLayouts, HaveShardsOfTheSizesThatAreTold) {
  for_each([](const Drawn& drawn, Draw& draw) {
    const Simulation simulation(drawn.whole, drawn.from, draw.random());
    for (int device = 0; device < drawn.from.mesh().size(); ++device) {
      EXPECT_EQ(
          simulation.shards()[device].sizes,
          shard_sizes(drawn.from, drawn.sizes, device));
    }
  });
}

TEST_P(RandomLayouts, PassThroughTheLayoutsOfTheirSteps) {
  for_each([](const Drawn& drawn, Draw&) {
    Layout layout = drawn.from;
    for (const Step& step : drawn.plan.steps) {
      EXPECT_EQ(step.from, layout[step.axis]);
      EXPECT_NE(step.from, step.to);
      for (int axis = 0; step.axes() >> axis; ++axis) {
        if (step.axes() >> axis & 1) {
          EXPECT_EQ(step.from, layout[axis]);
          layout = layout.with(axis, step.to);
        }
      }
      EXPECT_EQ(step.after, layout);
      EXPECT_EQ(error_of([&] { check_layout(layout, drawn.sizes); }), "");
    }
  });
}

TEST_P(RandomLayouts, GatherAsManyBytesAsTheirStepsSay) {
  for_each([](const Drawn& drawn, Draw& draw) {
    Simulation simulation(drawn.whole, drawn.from, draw.random());
    for (const Step& step : drawn.plan.steps) {
      const int64_t received = simulation.run(step);
      if (step.kind == Step::Kind::kAllGather ||
          step.kind == Step::Kind::kAllToAll) {
        EXPECT_EQ(step.num_bytes, received * kItemsize) << step.str();
      }
    }
  });
}

TEST_P(RandomLayouts, CountEachSumInTheBytesOfARing) {
  for_each([](const Drawn& drawn, Draw& draw) {
    Simulation simulation(drawn.whole, drawn.from, draw.random());
    for (const Step& step : drawn.plan.steps) {
      const int64_t n = drawn.from.mesh().axis(step.axis).size;
      auto largest = [&] {
        int64_t most = 0;
        for (const Numbers& shard : simulation.shards()) {
          most = std::max(most, shard.numel());
        }
        return most;
      };
      const int64_t before = largest();
      simulation.run(step);
      // Of a part of each other device, what is kept.
      if (step.kind == Step::Kind::kReduceScatter) {
        EXPECT_EQ(step.num_bytes, (n - 1) * largest() * kItemsize);
      }
      // A chunk of each, and all other chunks of the sum.
      if (step.kind == Step::Kind::kAllReduce && step.parts.empty()) {
        const int64_t chunk = (before + n - 1) / n;
        const int64_t received = n == 1 ? 0 : (n - 1) * chunk + before - chunk;
        EXPECT_EQ(step.num_bytes, received * kItemsize);
      }
    }
  });
}

TEST_P(RandomLayouts, CountSumsOverManyAxesNoHigherThanOneByOne) {
  for_each([](const Drawn& drawn, Draw& draw) {
    Simulation simulation(drawn.whole, drawn.from, draw.random());
    for (const Step& step : drawn.plan.steps) {
      int64_t most = 0;
      for (const Numbers& shard : simulation.shards()) {
        most = std::max(most, shard.numel());
      }
      simulation.run(step);
      int64_t of_parts = 0;
      int64_t one_by_one = 0;
      for (const Step::Part& part : step.parts) {
        of_parts += part.num_bytes;
      }
      for (int axis = 0; axis < drawn.from.mesh().num_axes(); ++axis) {
        if (step.axes() >> axis & 1) {
          const int64_t n = drawn.from.mesh().axis(axis).size;
          const int64_t chunk = (most + n - 1) / n;
          one_by_one += n == 1 ? 0 : (n - 1) * chunk + most - chunk;
        }
      }
      if (!step.parts.empty()) {
        EXPECT_EQ(of_parts, step.num_bytes);
        EXPECT_LE(of_parts, one_by_one * kItemsize);
      }
    }
  });
}

TEST_P(RandomLayouts, CostNoMoreThanByWayOfAReplica) {
  for_each([](const Drawn& drawn, Draw&) {
    const Layout middle = Layout::replicated(drawn.from.mesh());
    const int64_t there =
        plan_redistribution(drawn.from, middle, drawn.sizes, kItemsize)
            .num_bytes();
    const int64_t back =
        plan_redistribution(middle, drawn.to, drawn.sizes, kItemsize)
            .num_bytes();
    EXPECT_EQ(back, 0);
    // A sum that stays open is not paid for on the way, only here.
    EXPECT_LE(drawn.plan.num_bytes(), there);
  });
}

TEST_P(RandomLayouts, AreRedistributedAlikeEachTime) {
  for_each([](const Drawn& drawn, Draw&) {
    EXPECT_EQ(
        plan_redistribution(drawn.from, drawn.to, drawn.sizes, kItemsize),
        drawn.plan);
  });
}

INSTANTIATE_TEST_SUITE_P(Axes, RandomLayouts, testing::Values(1, 2, 3));

}  // namespace
}  // namespace torch_mesh

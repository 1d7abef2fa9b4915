// test_layout.cpp: layouts as values, and their text.

#include <torch_mesh/layout.h>

#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "core/error_of.h"

namespace torch_mesh {
namespace {

Mesh two_by_two() { return Mesh({{"data", 2}, {"model", 2}}); }

Layout parse(std::string_view text) {
  return Layout::parse(two_by_two(), text);
}

TEST(Layout, IsReplicatedOnNoMeshByDefault) {
  EXPECT_EQ(Layout().mesh(), Mesh());
  EXPECT_EQ(Layout().str(), "()");
  EXPECT_TRUE(Layout().is_replicated());
}

TEST(Layout, PrintsItsPlacements) {
  const std::vector<Placement> placements = {Placement::shard(1, 8),
                                             Placement::partial()};
  EXPECT_EQ(Layout(two_by_two(), placements).str(), "(S1/8, P+)");
}

TEST(Layout, ReadsTheTextItPrints) {
  EXPECT_EQ(parse("(S1/8, P+)").str(), "(S1/8, P+)");
  EXPECT_EQ(Layout::parse(Mesh(), "()"), Layout());
}

TEST(Layout, ReadsAxesByName) {
  EXPECT_EQ(parse("{model: S0, data: P+}"), parse("(P+, S0)"));
}

TEST(Layout, TakesAxesLeftOutAsReplicated) {
  EXPECT_EQ(parse("{model: S0}"), parse("(R, S0)"));
  EXPECT_EQ(parse("{}"), parse("(R, R)"));
}

TEST(Layout, DoesNotCareForSpacesInItsText) {
  EXPECT_EQ(parse("  ( S0 ,R)"), parse("(S0, R)"));
  EXPECT_EQ(parse("{ model :S0 }"), parse("(R, S0)"));
}

TEST(Layout, NamesTheTextThatItCannotRead) {
  EXPECT_EQ(
      error_of([] { parse("S0, R"); }),
      "Layout: \"S0, R\" is no layout.\n"
      "Hint: write one placement for each axis, as in (S0, R), or name the "
      "axes, as in {data: S0}. [layout-text]");
}

struct BadText {
  const char* text;
  const char* code;
};

class LayoutText : public testing::TestWithParam<BadText> {};

TEST_P(LayoutText, IsRefused) {
  EXPECT_EQ(error_code_of([] { parse(GetParam().text); }), GetParam().code)
      << GetParam().text;
}

INSTANTIATE_TEST_SUITE_P(
    Bad,
    LayoutText,
    testing::Values(
        BadText{"", "layout-text"},
        BadText{"(", "layout-text"},
        BadText{"(S0, R}", "layout-text"},
        BadText{"{data}", "layout-text"},
        BadText{"{data: R, data: S0}", "layout-text"},
        BadText{"{data: R,}", "layout-text"},
        BadText{"{modle: R}", "unknown-axis"},
        BadText{"{data: Q}", "placement-text"},
        BadText{"(S0, )", "placement-text"},
        BadText{"(S0)", "layout-axes"},
        BadText{"()", "layout-axes"},
        BadText{"(S0, R, R)", "layout-axes"}));

TEST(Layout, HasOnePlacementForEachAxis) {
  EXPECT_EQ(
      error_of([] { parse("(S0)"); }),
      "Layout: there are 1 placements, and the mesh has 2 axes.\n"
      "  layout  (S0)\n"
      "  mesh    data=2 model=2\n"
      "Hint: give one placement for each axis of the mesh; R leaves an axis "
      "alone. [layout-axes]");
}

TEST(Layout, IsEqualByContent) {
  EXPECT_EQ(parse("(S0, R)"), parse("(S0, R)"));
  EXPECT_EQ(parse("(S0, R)").id(), parse("(S0, R)").id());
  EXPECT_NE(parse("(S0, R)"), parse("(R, S0)"));
  EXPECT_NE(parse("(S0, R)"), parse("(S0/2, R)"));
  EXPECT_NE(
      parse("(S0, R)"),
      Layout::parse(Mesh({{"data", 2}, {"other", 2}}), "(S0, R)"));
}

TEST(Layout, HasAnIdOfItsOwn) {
  std::set<uint32_t> ids;
  for (const char* text : {"(R, R)", "(S0, R)", "(S1, R)", "(P+, R)"}) {
    ids.insert(parse(text).id());
  }
  EXPECT_EQ(ids.size(), 4u);
}

TEST(Layout, TakesTheNextFreeId) {
  const Mesh mesh({{"an-axis-of-this-test", 2}});
  const uint32_t first = Layout::parse(mesh, "(S0)").id();
  EXPECT_EQ(Layout::parse(mesh, "(S1)").id(), first + 1);
}

TEST(Layout, IsReplicatedOnAllAxes) {
  EXPECT_EQ(Layout::replicated(two_by_two()), parse("(R, R)"));
}

TEST(Layout, ChangesOneAxis) {
  const Layout layout = parse("(S0, R)");
  EXPECT_EQ(layout.with(1, Placement::partial()).str(), "(S0, P+)");
  EXPECT_EQ(layout.with(0, Placement::shard(0)), layout);
  EXPECT_EQ(layout.str(), "(S0, R)");
}

TEST(Layout, KnowsItsShardedAndPartialAxes) {
  EXPECT_EQ(parse("(S0, P+)").sharded_axes(), 0b01u);
  EXPECT_EQ(parse("(S0, P+)").partial_axes(), 0b10u);
  EXPECT_TRUE(parse("(S0, P+)").has_partial());
  EXPECT_FALSE(parse("(R, P+)").is_replicated());
  EXPECT_FALSE(parse("(R, S0)").is_replicated());
}

TEST(Layout, KnowsWhichDimsItShards) {
  EXPECT_TRUE(parse("(R, S1)").shards_dim(1));
  EXPECT_FALSE(parse("(R, S1)").shards_dim(0));
  EXPECT_FALSE(parse("(R, R)").shards_dim(-1));
}

TEST(Layout, HasTheLanesOfItsShardedAxes) {
  EXPECT_EQ(&parse("(S0, P+)").lanes(), &two_by_two().lanes(0b01));
  EXPECT_EQ(parse("(P+, P+)").lanes().num, 1);
}

TEST(Layout, IsOneObjectForAllThreads) {
  const Mesh mesh({{"threads", 2}});
  std::vector<Layout> seen(4);
  std::vector<std::thread> threads;
  for (Layout& layout : seen) {
    threads.emplace_back([&] { layout = Layout::parse(mesh, "(S3)"); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(seen, std::vector<Layout>(4, Layout::parse(mesh, "(S3)")));
}

}  // namespace
}  // namespace torch_mesh

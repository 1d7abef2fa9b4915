// test_placement.cpp: the text form of placements.

#include <torch_mesh/placement.h>

#include <gtest/gtest.h>

#include "core/error_of.h"

namespace torch_mesh {
namespace {

class PlacementText : public testing::TestWithParam<const char*> {};

TEST_P(PlacementText, IsReadAndPrintedAlike) {
  EXPECT_EQ(Placement::parse(GetParam()).str(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    Good,
    PlacementText,
    testing::Values("R", "P+", "S0", "S12", "S1/8"));

TEST(Placement, TakesPForASum) {
  EXPECT_EQ(Placement::parse("P"), Placement::partial());
}

TEST(Placement, KnowsWhatItDoes) {
  EXPECT_TRUE(Placement::replicate().is_replicate());
  EXPECT_TRUE(Placement::partial().is_partial());
  EXPECT_TRUE(Placement::shard(2).is_shard(2));
  EXPECT_FALSE(Placement::shard(2).is_shard(1));
  EXPECT_FALSE(Placement::replicate().is_shard(-1));
}

TEST(Placement, InBlocksIsAnotherThanOneWithout) {
  EXPECT_NE(Placement::parse("S0/4"), Placement::parse("S0"));
}

TEST(Placement, NamesTheTextThatItCannotRead) {
  EXPECT_EQ(
      error_of([] { Placement::parse("S-1"); }),
      "Placement: \"S-1\" is no placement.\n"
      "Hint: write R (replicate), S<dim> (shard, as in S0) or P+ (partial "
      "sum). [placement-text]");
}

class BadPlacementText : public testing::TestWithParam<const char*> {};

TEST_P(BadPlacementText, IsRefused) {
  EXPECT_EQ(
      error_code_of([] { Placement::parse(GetParam()); }), "placement-text");
}

INSTANTIATE_TEST_SUITE_P(
    Bad,
    BadPlacementText,
    testing::Values(
        "",
        "r",
        "R ",
        " R",
        "S",
        "S+1",
        "Sx",
        "S0x",
        "S0/",
        "S0/0",
        "S0/-4",
        "S0/4x",
        "S99999999999",
        "Pmax",
        "P-"));

}  // namespace
}  // namespace torch_mesh

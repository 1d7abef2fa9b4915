// test_properties.cpp: the properties of the fuzzers on a few random inputs.
//
// `make fuzz` searches for long, with clang; this keeps them true day by day.

#include "fuzz/properties.h"

#include <gtest/gtest.h>

namespace torch_mesh::fuzz {
namespace {

void check_many(void (*check)(Bytes&), int num_inputs) {
  std::mt19937_64 random(/*seed=*/4);
  for (int i = 0; i < num_inputs; ++i) {
    std::vector<uint8_t> input(random() % 200);
    for (uint8_t& byte : input) {
      byte = static_cast<uint8_t>(random());
    }
    Bytes bytes(input);
    ASSERT_NO_THROW(check(bytes)) << "input " << i;
  }
}

TEST(Properties, OfRulesHold) { check_many(check_rule, 3000); }

TEST(Properties, OfLayoutsHold) { check_many(check_layout_algebra, 3000); }

TEST(Properties, OfRedistributionsHold) {
  check_many(check_redistribution, 1000);
}

TEST(Properties, OfPlansHold) { check_many(check_plan, 1000); }

}  // namespace
}  // namespace torch_mesh::fuzz

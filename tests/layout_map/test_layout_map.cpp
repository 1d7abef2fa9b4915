// The matching rule of layout maps, as text: patterns, a path, what it finds.

#include <gtest/gtest.h>

#include <torch_mesh/layout_map.h>

#include "core/error_of.h"
#include "layout_map/path.h"

namespace torch_mesh {
namespace {

constexpr std::nullopt_t kNone = std::nullopt;
const DimAxes kA{kNone, "model"};
const DimAxes kB{"model", kNone};

struct Case {
  std::vector<std::pair<std::string, DimAxes>> patterns;
  std::string path;
  DimAxes axes;  // empty: finds nothing
};

LayoutMap map_of(const Case& c) {
  LayoutMap map;
  for (const auto& [pattern, axes] : c.patterns) {
    map.add(pattern, axes);
  }
  return map;
}

void check(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    EXPECT_EQ(map_of(c).find(c.path).axes, c.axes)
        << c.patterns[0].first << " on " << c.path;
  }
}

TEST(LayoutMap, the_path_itself_comes_first) {
  check(
      {
          {{{"a/dense/kernel", kA}}, "a/dense/kernel", kA},
          {{{".*kernel", kB}, {"a/dense/kernel", kA}}, "a/dense/kernel", kA},
      });
}

TEST(LayoutMap, a_pattern_matches_the_whole_path) {
  check(
      {
          {{{".*dense.*kernel", kA}}, "sequential/dense_1/kernel", kA},
          {{{".*dense.*kernel", kA}}, "sequential/dense_1/bias", {}},
          {{{"fc\\d\\.weight", kA}}, "fc1.weight", kA},
          // before a longer end
          {{{"dense/kernel", kB}, {"a/.*kernel", kA}}, "a/dense/kernel", kA},
      });
}

TEST(LayoutMap, a_pattern_matches_an_end_that_begins_at_a_segment) {
  check(
      {
          {{{"dense.*kernel", kA}}, "sequential/dense/kernel", kA},
          {{{"dense.*kernel", kA}}, "sequential/my_dense/kernel", {}},
          {{{"kernel", kA}}, "sequential/dense/lora_kernel", {}},
          {{{"fc1.weight", kA}}, "net.block.fc1.weight", kA},
          {{{"c1.weight", kA}}, "net.block.fc1.weight", {}},
      });
}

TEST(LayoutMap, the_longest_end_wins_in_any_order) {
  check(
      {
          {{{"dense/kernel", kA}, {"kernel", kB}}, "m/dense/kernel", kA},
          {{{"kernel", kB}, {"dense/kernel", kA}}, "m/dense/kernel", kA},
      });
}

TEST(LayoutMap, a_path_is_found_in_its_other_form) {
  check(
      {
          {{{"dense.weight", kA}}, "sequential/dense/kernel", kA},
          {{{"sequential\\.dense\\.weight", kA}},
           "sequential/dense/kernel",
           kA},
          {{{"norm.weight", {"model"}}}, "m/norm/gamma", {"model"}},
          {{{"bn.running_mean", {"model"}}}, "m/bn/moving_mean", {"model"}},
          {{{"dense/bias", {"model"}}}, "net.dense.bias", {"model"}},
          {{{"emb/embeddings", kA}}, "net.emb.weight", kA},
      });
}

TEST(LayoutMap, a_weight_found_as_kernel_has_its_entries_permuted) {
  check(
      {
          {{{"dense.*kernel", kA}}, "net.dense.weight", kB},
          {{{"conv/kernel", {kNone, kNone, "data", "model"}}},
           "net.conv.weight",
           {"model", "data", kNone, kNone}},
          {{{"dense.*weight", kA}}, "net.dense.weight", kA},
      });
}

TEST(LayoutMap, a_pattern_for_weights_finds_no_output_by_its_end) {
  check(
      {
          {{{"dense.*", kA}}, "m/dense/output", {}},
          {{{"dense.*output", kA}}, "m/dense/output", kA},
          {{{".*dense.*", kA}}, "m/dense/output", kA},
      });
}

TEST(LayoutMap, a_match_says_what_found_it) {
  LayoutMap map;
  map.add("fc.*weight", kA);
  const LayoutMap::Match match = map.find("net.fc1.weight");
  EXPECT_EQ(match.rule, LayoutMap::Rule::kEnd);
  EXPECT_EQ(match.pattern, "fc.*weight");
  EXPECT_EQ(match.matched, "fc1.weight");
  EXPECT_EQ(map.find("net.conv").rule, LayoutMap::Rule::kNone);
}

TEST(LayoutMap, two_patterns_on_the_whole_path_are_an_error) {
  LayoutMap map;
  map.add(".*kernel", kA);
  map.add(".*dense.*", kB);
  const std::string error = error_of([&] { map.find("m/dense/kernel"); });
  EXPECT_NE(error.find("[ambiguous-pattern]"), std::string::npos) << error;
  EXPECT_NE(error.find("\".*dense.*\""), std::string::npos) << error;
}

TEST(LayoutMap, two_patterns_on_one_end_warn_and_find_nothing) {
  LayoutMap map;
  map.add("dense.*kernel", kA);
  map.add("dense/.*", kB);
  const LayoutMap::Match match = map.find("m/dense/kernel");
  EXPECT_EQ(match.rule, LayoutMap::Rule::kNone);
  EXPECT_TRUE(match.axes.empty());
  EXPECT_NE(
      match.warning.find("\"dense/.*\" matches \"dense/kernel\""),
      std::string::npos)
      << match.warning;
}

TEST(LayoutMap, the_environment_gives_the_rule_of_keras_alone) {
  LayoutMap map;
  map.add("dense.*kernel", kA);
  setenv("TORCH_MESH_MATCH", "keras", 1);
  EXPECT_TRUE(map.find("m/dense/kernel").axes.empty());
  EXPECT_EQ(map.find("dense/kernel").axes, kA);
  unsetenv("TORCH_MESH_MATCH");
  EXPECT_EQ(map.find("m/dense/kernel").axes, kA);
}

TEST(LayoutMap, what_cannot_be_added_is_named) {
  LayoutMap map;
  map.add("a", kA);
  EXPECT_EQ(error_code_of([&] { map.add("a", kB); }), "pattern-twice");
  EXPECT_EQ(error_code_of([&] { map.add("b(", kA); }), "pattern-text");
  EXPECT_EQ(error_code_of([&] { map.add("b(?=c)", kA); }), "pattern-text");
  EXPECT_EQ(
      error_code_of([&] { map.add("b", {"model", "model"}); }), "axis-twice");
  EXPECT_EQ(error_code_of([&] { map.axes_of("b"); }), "unknown-pattern");
  EXPECT_EQ(map.patterns(), std::vector<std::string>{"a"});
}

TEST(LayoutMap, a_path_beyond_ascii_is_found_as_a_key_alone) {
  LayoutMap map;
  map.add(
      "gr\xc3\xb6\xc3\x9f"
      "e",
      kA);
  map.add(".*", kB);
  EXPECT_EQ(
      map.find(
             "gr\xc3\xb6\xc3\x9f"
             "e")
          .axes,
      kA);
  EXPECT_EQ(error_code_of([&] { map.find("\xc3\xbc"); }), "pattern-path");
}

TEST(LayoutMap, a_copy_is_a_value) {
  LayoutMap map;
  map.add("a", kA);
  LayoutMap copy = map;
  copy.add("b", kB);
  EXPECT_EQ(copy.find("m/b").axes, kB);
  EXPECT_TRUE(map.find("m/b").axes.empty());
  EXPECT_EQ(map.patterns(), std::vector<std::string>{"a"});
}

TEST(LayoutMap, a_pattern_with_keras_separator_finds_the_weight_as_written) {
  LayoutMap map;
  map.add("dense/.*", kA);
  const LayoutMap::Match match = map.find("net.dense.weight");
  EXPECT_EQ(match.matched, "dense/weight");
  EXPECT_EQ(match.axes, kA);
}

TEST(Path, has_an_end_for_each_segment) {
  EXPECT_EQ(
      ends_of("net.fc1.weight"),
      (std::vector<std::string>{"fc1.weight", "weight"}));
  // A Keras layer may have a dot in its name.
  EXPECT_EQ(ends_of("a.b/kernel"), std::vector<std::string>{"kernel"});
  EXPECT_TRUE(ends_of("weight").empty());
}

TEST(Path, has_all_names_that_a_weight_can_have) {
  EXPECT_EQ(
      other_forms_of("fc.weight"),
      (std::vector<std::string>{
          "fc/weight", "fc/kernel", "fc/embeddings", "fc/gamma"}));
  EXPECT_EQ(
      other_forms_of("m/fc/kernel"),
      (std::vector<std::string>{"m.fc.kernel", "m.fc.weight"}));
}

TEST(Path, the_nearest_is_so_by_an_end_of_it_too) {
  EXPECT_EQ(
      nearest_paths("densse.bias", {"net/dense/kernel", "net/dense/bias"}, 1),
      std::vector<std::string>{"net/dense/bias"});
  EXPECT_TRUE(nearest_paths("a", {}, 3).empty());
}

}  // namespace
}  // namespace torch_mesh

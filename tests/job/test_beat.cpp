// test_beat.cpp: beats as texts.

#include <gtest/gtest.h>

#include "job/beat.h"

namespace torch_mesh {
namespace {

Beat beat() {
  Beat beat;
  beat.number = 7;
  beat.begun = 3;
  beat.ended = 2;
  beat.hash = ~uint64_t{0};
  beat.state = Beat::State::kFailed;
  beat.cause = 1;
  beat.why = Why::kLate;
  beat.op = "all_gather\nof float32 12 3";
  beat.failure = std::string("zero\0inside", 11);
  return beat;
}

TEST(Beat, comes_back_from_its_text) {
  const std::optional<Beat> back = Beat::parse(beat().str());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->str(), beat().str());
  EXPECT_EQ(back->number, 7u);
  EXPECT_EQ(back->hash, ~uint64_t{0});
  EXPECT_EQ(back->state, Beat::State::kFailed);
  EXPECT_EQ(back->cause, 1);
  EXPECT_EQ(back->why, Why::kLate);
  EXPECT_EQ(back->op, beat().op);
  EXPECT_EQ(back->line, "");
  EXPECT_EQ(back->failure, beat().failure);
}

TEST(Beat, long_texts_are_cut) {
  Beat long_one = beat();
  long_one.failure.assign(10 * Beat::kMaxText, 'x');
  const std::optional<Beat> back = Beat::parse(long_one.str());
  ASSERT_TRUE(back);
  EXPECT_EQ(back->failure.size(), Beat::kMaxText);
}

TEST(Beat, no_part_of_its_text_is_one) {
  const std::string text = beat().str();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(Beat::parse(text.substr(0, size))) << size;
  }
  EXPECT_FALSE(Beat::parse(text + "x"));
}

TEST(Beat, texts_with_wrong_numbers_are_none) {
  for (const char* text : {"beat2 1 2 3 4 3 0 0 0 0 0\n",
                           "beat2 1 2 3 4 -1 0 0 0 0 0\n",
                           "beat2 1 2 3 4 0 0 0 18446744073709551615 0 0\n",
                           "beat2 1 2 3 4 0 99999999999 0 0 0 0\n",
                           "beat2 -1 2 3 4 0 0 0 0 0 0\n",
                           "beat2 1 2 3 4 0 0 5 0 0 0\n",
                           "beat2 1 2 3 4 0 0 -1 0 0 0\n",
                           "beat1 1 2 3 4 0 0 0 0 0 0\n"}) {
    EXPECT_FALSE(Beat::parse(text)) << text;
  }
}

}  // namespace
}  // namespace torch_mesh

// test_judge.cpp: the rules by which a process is lost, on a clock of the test.

#include <cstdlib>

#include <gtest/gtest.h>

#include "core/error_of.h"
#include "job/judge.h"

namespace torch_mesh {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kInterval{500};

// Three processes as process 0 sees them.
class JudgeTest : public testing::Test {
 protected:
  JudgeTest() : judge_(0, 3, settings()) {
    for (size_t i = 0; i < beats_.size(); ++i) {
      beats_[i].op = "all_reduce of process " + std::to_string(i);
      beats_[i].begun = 4;
    }
  }
  static MonitorSettings settings() { return {.interval = 0.5, .limit = 3}; }

  // All beat, but `silent`.
  void pass(int num_beats, int silent = -1, milliseconds each = kInterval) {
    for (int i = 0; i < num_beats; ++i) {
      now_ += each;
      std::vector<std::optional<std::string>> texts;
      for (size_t p = 0; p < beats_.size(); ++p) {
        beats_[p].number += static_cast<int>(p) != silent;
        texts.emplace_back(beats_[p].str());
      }
      judge_.heard(now_, texts);
      judge_.looked(now_, ++num_beats_);
    }
  }
  std::string code() const {
    return judge_.verdict() ? code_of(judge_.verdict()->why) : "";
  }
  std::string text() const {
    return judge_.verdict() ? judge_.verdict()->text : "";
  }
  bool says(const std::string& words) const {
    return text().find(words) != std::string::npos;
  }

  Judge judge_;
  Judge::Time now_{};
  uint64_t num_beats_ = 0;
  std::vector<Beat> beats_ = std::vector<Beat>(3);
};

TEST_F(JudgeTest, no_process_that_beats_is_lost) {
  pass(1000);
  EXPECT_FALSE(judge_.verdict());
}

TEST_F(JudgeTest, a_process_is_lost_after_six_beats_without_one_of_its_own) {
  judge_.set_name(1, "host x, pid 123");
  beats_[1].line = "train.py:12";
  pass(3);
  pass(5, 1);
  EXPECT_FALSE(judge_.verdict());
  pass(1, 1);
  EXPECT_EQ(code(), "peer-lost");
  EXPECT_EQ(judge_.verdict()->process, 1);
  EXPECT_EQ(
      text(),
      "process 1 (host x, pid 123) does not answer since 3.0 s.\n"
      "  its last op  all_reduce of process 1 (number 4, begun)\n"
      "  at  train.py:12\n"
      "  limit  3 s without a beat (TORCH_MESH_HEARTBEAT)\n"
      "Hint: look at the output of process 1: it ended, was killed or stands "
      "still (TORCH_MESH_HEARTBEAT=0, for all processes, lets a debugger stop "
      "one).");
}

TEST_F(JudgeTest, a_process_that_beats_late_is_not_lost) {
  pass(3);
  for (int i = 0; i < 10; ++i) {
    pass(5, 1);
    pass(1);
  }
  EXPECT_FALSE(judge_.verdict());
}

TEST_F(JudgeTest, a_process_that_did_not_begin_is_not_lost) {
  for (int i = 0; i < 100; ++i) {
    judge_.heard(now_ += kInterval, {beats_[0].str(), {}, {}});
  }
  EXPECT_FALSE(judge_.verdict());
}

TEST_F(JudgeTest, a_job_that_was_stopped_as_a_whole_goes_on) {
  pass(3);
  pass(5, 1);
  pass(1, 1, std::chrono::seconds(10));
  pass(5, 1);
  EXPECT_FALSE(judge_.verdict());
  pass(1, 1);
  EXPECT_EQ(code(), "peer-lost");
}

TEST_F(JudgeTest, a_closed_connection_needs_two_beats) {
  pass(3);
  judge_.closed(1);
  pass(20);
  EXPECT_FALSE(judge_.verdict());
  pass(1, 1);
  EXPECT_FALSE(judge_.verdict());
  pass(1, 1);
  EXPECT_EQ(code(), "peer-lost");
  EXPECT_TRUE(says("process 1 closed its connection"));
}

TEST_F(JudgeTest, the_first_verdict_stays) {
  pass(3);
  pass(6, 1);
  const std::string first = text();
  beats_[2].state = Beat::State::kFailed;
  pass(10, 2);
  EXPECT_EQ(text(), first);
}

TEST_F(JudgeTest, an_error_of_a_process_is_shown_escaped) {
  beats_[2].failure = "ValueError: \x1b[31mno\n  such\tthing";
  beats_[2].state = Beat::State::kFailed;
  pass(1);
  EXPECT_EQ(code(), "peer-failed");
  EXPECT_TRUE(says(
      "process 2 ended with an error.\n    ValueError: \\x1b[31mno\n"
      "      such\\x09thing\n  its last op  all_reduce of process 2"))
      << text();
}

TEST_F(JudgeTest, a_process_that_failed_for_a_lost_one_names_that) {
  beats_[2].failure = "process 1 does not answer since 3.0 s. [peer-lost]";
  beats_[2].state = Beat::State::kFailed;
  beats_[2].cause = 1;
  pass(1);
  EXPECT_EQ(code(), "peer-lost");
  EXPECT_EQ(judge_.verdict()->process, 1);
  EXPECT_TRUE(says("process 1 is lost, says process 2."));
}

TEST_F(JudgeTest, why_a_process_failed_goes_from_one_to_the_next) {
  beats_[2].state = Beat::State::kFailed;
  beats_[2].cause = 1;
  beats_[1].line = "train.py:41";
  for (const Why why : {Why::kLate, Why::kLeft, Why::kFailed}) {
    Judge judge(0, 3, settings());
    beats_[2].why = why;
    judge.heard(now_, {{}, beats_[1].str(), beats_[2].str()});
    ASSERT_TRUE(judge.verdict());
    EXPECT_EQ(judge.verdict()->why, why);
    EXPECT_EQ(judge.verdict()->process, 1);
    EXPECT_NE(judge.verdict()->text.find("train.py:41"), std::string::npos);
  }
}

TEST_F(JudgeTest, who_finds_a_difference_tells_all_of_one) {
  beats_[2].failure = "process 1 runs another program than process 2.";
  beats_[2].state = Beat::State::kFailed;
  beats_[2].why = Why::kDiffers;
  pass(1);
  EXPECT_EQ(code(), "processes-differ");
  EXPECT_EQ(judge_.verdict()->process, 2);
}

TEST_F(JudgeTest, late_is_who_waits_for_nobody) {
  for (Beat& beat : beats_) {
    beat.begun = beat.ended = 7;
  }
  beats_[1].begun = 8;  // it waits
  pass(1);
  EXPECT_EQ(judge_.late(1), 2);
  EXPECT_EQ(judge_.late(2), 2);
  beats_[2].begun = 8;  // ... as all do: none is to blame but the awaited one
  pass(1);
  EXPECT_EQ(judge_.late(1), 1);
}

TEST_F(JudgeTest, a_process_that_others_lost_learns_it) {
  beats_[2].failure = "process 0 does not answer";
  beats_[2].state = Beat::State::kFailed;
  for (const int cause : {0, 2, 17, -5}) {
    Judge judge(0, 3, settings());
    beats_[2].cause = cause;
    judge.heard(now_, {{}, {}, beats_[2].str()});
    ASSERT_TRUE(judge.verdict()) << cause;
    EXPECT_EQ(judge.verdict()->why, Why::kFailed);
  }
}

TEST_F(JudgeTest, a_process_that_left_is_lost_to_those_alone_who_wait_for_it) {
  pass(2);
  EXPECT_FALSE(judge_.left(1));
  beats_[1].state = Beat::State::kLeft;
  pass(1);
  pass(100, 1);
  EXPECT_FALSE(judge_.verdict());
  EXPECT_FALSE(judge_.left(2));
  ASSERT_TRUE(judge_.left(1));
  EXPECT_EQ(judge_.left(1)->why, Why::kLeft);
}

TEST_F(JudgeTest, a_store_that_does_not_answer_is_lost) {
  pass(3);
  for (int i = 0; i < 6; ++i) {
    EXPECT_FALSE(judge_.verdict()) << i;
    judge_.looked(now_ += kInterval, num_beats_);
  }
  EXPECT_EQ(code(), "peer-lost");
  EXPECT_TRUE(says("the job's store does not answer since 3.0 s"));
}

TEST_F(JudgeTest, a_machine_that_slept_does_not_lose_the_store) {
  pass(3);
  for (int i = 0; i < 5; ++i) {
    judge_.looked(now_ += kInterval, num_beats_);
  }
  judge_.looked(now_ += std::chrono::hours(5), num_beats_);
  judge_.looked(now_ += kInterval, num_beats_);
  EXPECT_FALSE(judge_.verdict());
}

TEST_F(JudgeTest, a_store_that_goes_takes_its_process_with_it) {
  pass(1);
  judge_.closed(1);
  judge_.store_failed("Connection reset\nby peer");
  EXPECT_EQ(judge_.verdict()->process, 1);
  EXPECT_TRUE(says("process 1, with the job's store, is gone."));
  EXPECT_TRUE(says("all_reduce of process 1"));
}

TEST_F(JudgeTest, a_store_that_goes_at_the_end_of_a_job_is_no_loss) {
  beats_[1].state = Beat::State::kLeft;
  pass(1);
  judge_.store_failed("Connection reset");
  EXPECT_FALSE(judge_.verdict());
}

TEST_F(JudgeTest, nobody_is_lost_without_a_limit) {
  Judge judge(0, 3, {.interval = 0.5, .limit = 0});
  for (int i = 0; i < 1000; ++i) {
    judge.heard(now_ += kInterval, {{}, beats_[1].str(), beats_[2].str()});
    judge.looked(now_, 0);
  }
  EXPECT_FALSE(judge.verdict());
  beats_[2].state = Beat::State::kFailed;
  judge.heard(now_, {{}, {}, beats_[2].str()});
  EXPECT_EQ(judge.verdict()->why, Why::kFailed);
}

TEST_F(JudgeTest, what_is_no_beat_is_no_verdict) {
  for (int i = 0; i < 20; ++i) {
    judge_.heard(
        now_ += kInterval, {{}, "beat2 " + std::to_string(i), "\xff\n"});
  }
  // Process 2 says nothing new.
  EXPECT_EQ(judge_.verdict()->process, 2);
}

TEST(MonitorSettings, come_from_the_environment) {
  auto with = [](const char* text) {
    setenv("TORCH_MESH_HEARTBEAT", text, 1);
    const MonitorSettings settings = MonitorSettings::of_environment();
    unsetenv("TORCH_MESH_HEARTBEAT");
    return settings;
  };
  EXPECT_EQ(with("").limit, 3);
  EXPECT_EQ(with("60").limit, 60);
  EXPECT_EQ(with("60").interval, 0.5);
  EXPECT_EQ(with("1.5").interval, 0.25);
  EXPECT_EQ(with("0").limit, 0);
  EXPECT_EQ(with("0").interval, 0.5);
  for (const char* wrong : {"soon", "-1", "nan", "inf", "3s"}) {
    EXPECT_EQ(error_code_of([&] { with(wrong); }), "process-timeout") << wrong;
  }
  unsetenv("TORCH_MESH_HEARTBEAT");
}

}  // namespace
}  // namespace torch_mesh

// test_monitor.cpp: the threads that beat and watch, beside other processes
// that are written into the store by the test.

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "core/error_of.h"
#include "job/memory_store.h"
#include "job/monitor.h"
#include "job/waiting.h"

namespace torch_mesh {
namespace {

constexpr MonitorSettings kFast{.interval = 0.01, .limit = 0.5};

// This process is process 0 of 2; the test plays process 1.
class MonitorTest : public testing::Test {
 protected:
  void start(const MonitorSettings& settings = kFast) {
    start_monitor(store_.clone(), 0, 2, settings);
  }
  void TearDown() override {
    store_.become(MemoryStore::Mode::kAnswers);
    stop_monitor();
  }

  void play(Beat::State state, const std::string& failure = "") {
    Beat beat;
    beat.number = ++number_;
    beat.state = state;
    beat.failure = failure;
    beat.begun = 1;
    beat.op = "broadcast";
    store_.set("beat/1", beat.str());
  }
  // What a wait for process 1 ends with; "" if with nothing, after 20 s.
  static std::string end_of_wait(int process = 1) {
    const Wait wait(process);
    return error_of([&] {
      while (true) {
        wait.check("a test");
        std::this_thread::yield();
      }
    });
  }
  Beat own_beat() {
    return Beat::parse(store_.get("beat/0", 0)).value_or(Beat());
  }
  // Whether process 0 comes to say what `is_right` likes.
  template <typename IsRight>
  bool comes_to_say(IsRight is_right) {
    return store_.wait_for("beat/0", [&](const std::string& text) {
      const std::optional<Beat> beat = Beat::parse(text);
      return beat && is_right(*beat);
    });
  }

  MemoryStore store_;
  uint64_t number_ = 0;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(MonitorTest, beats_go_on_while_nobody_asks) {
  start();
  EXPECT_TRUE(comes_to_say([](const Beat& beat) { return beat.number > 20; }));
  EXPECT_EQ(verdict(), std::nullopt);
}

TEST_F(MonitorTest, a_silent_process_ends_waits_for_any_process) {
  testing::internal::CaptureStderr();
  store_.set("name/1", "host x, pid 123");
  play(Beat::State::kRunning);
  start();
  const std::string error = end_of_wait(-1);
  EXPECT_TRUE(has(error, "process 1 (host x, pid 123) does not answer since"));
  EXPECT_TRUE(has(error, "its last op  broadcast (number 1, begun)"));
  EXPECT_TRUE(has(error, "[peer-lost]"));
  EXPECT_EQ(verdict(), error);
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_EQ(line.find('\n'), line.size() - 1) << line;
  EXPECT_TRUE(line.starts_with("torch_mesh: process 1 (host x, pid 123)"));
}

TEST_F(MonitorTest, an_error_of_another_process_ends_waits) {
  start();
  play(Beat::State::kFailed, "ValueError: no");
  const std::string error = end_of_wait();
  EXPECT_TRUE(has(error, "ValueError: no"));
  EXPECT_TRUE(has(error, "[peer-failed]"));
}

TEST_F(MonitorTest, a_process_that_left_ends_waits_for_itself_only) {
  start();
  play(Beat::State::kLeft);
  EXPECT_TRUE(has(end_of_wait(1), "[peer-left]"));
  EXPECT_EQ(error_of([] { Wait(-1).check("a test"); }), "");
  EXPECT_EQ(verdict(), std::nullopt);
}

TEST_F(MonitorTest, ops_and_lines_are_told) {
  start();
  Stamp stamp;
  stamp.hash = 77;
  stamp.set_text("all_gather");
  const uint64_t before = own_beat().begun;
  note_op(stamp, "train.py:12");
  EXPECT_TRUE(comes_to_say([&](const Beat& beat) {
    return beat.begun == before + 1 && beat.ended < beat.begun &&
           beat.hash == 77 && beat.op == "all_gather" &&
           beat.line == "train.py:12";
  }));
  note_op_ended();
  EXPECT_TRUE(
      comes_to_say([&](const Beat& beat) { return beat.ended == before + 1; }));
}

TEST_F(MonitorTest, a_reported_failure_is_in_the_store_at_once) {
  // No beat but the first comes by itself.
  start({.interval = 15, .limit = 90});
  ASSERT_TRUE(comes_to_say([](const Beat&) { return true; }));
  report_failure("ValueError: here");
  EXPECT_EQ(own_beat().state, Beat::State::kFailed);
  EXPECT_EQ(own_beat().failure, "ValueError: here");
  EXPECT_EQ(own_beat().cause, -1);
  stop_monitor();
  EXPECT_EQ(own_beat().state, Beat::State::kFailed);
}

TEST_F(MonitorTest, a_failure_for_a_lost_process_names_it) {
  play(Beat::State::kRunning);
  start();
  report_failure(end_of_wait());
  EXPECT_EQ(own_beat().cause, 1);
}

TEST_F(MonitorTest, leaving_is_told) {
  start();
  stop_monitor();
  EXPECT_EQ(own_beat().state, Beat::State::kLeft);
  EXPECT_EQ(error_of([] { Wait(1).check("a test"); }), "");
}

TEST_F(MonitorTest, the_keeper_of_the_store_leaves_when_the_others_know) {
  play(Beat::State::kRunning);
  start({.interval = 5, .limit = 30});
  ASSERT_TRUE(comes_to_say([](const Beat&) { return true; }));
  std::thread other([&] {
    store_.wait_for("beat/0", [](const std::string& text) {
      const std::optional<Beat> beat = Beat::parse(text);
      return beat && beat->state == Beat::State::kLeft;
    });
    play(Beat::State::kRunning);
    play(Beat::State::kRunning);
  });
  stop_monitor();
  other.join();
  EXPECT_EQ(number_, 3u);
}

TEST_F(MonitorTest, the_end_of_another_process_is_answered_at_once) {
  // No beat but the first comes by itself.
  start({.interval = 15, .limit = 90});
  ASSERT_TRUE(comes_to_say([](const Beat&) { return true; }));
  report_failure("here");  // returns when its beat is done
  const uint64_t before = own_beat().number;
  play(Beat::State::kFailed, "ValueError: no");
  report_failure("here again");
  EXPECT_TRUE(comes_to_say(
      [&](const Beat& beat) { return beat.number == before + 2; }));
}

TEST_F(MonitorTest, a_store_that_stands_still_ends_waits) {
  start();
  store_.become(MemoryStore::Mode::kStandsStill);
  const std::string error = end_of_wait();
  EXPECT_TRUE(has(error, "the job's store does not answer since 0.5 s"));
  EXPECT_TRUE(has(error, "[peer-lost]"));
}

TEST_F(MonitorTest, a_store_that_stands_still_does_not_keep_it_from_ending) {
  start();
  ASSERT_TRUE(comes_to_say([](const Beat&) { return true; }));
  store_.become(MemoryStore::Mode::kStandsStill);
  const auto begin = std::chrono::steady_clock::now();
  stop_monitor();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST_F(MonitorTest, a_store_that_is_gone_ends_waits) {
  start();
  store_.become(MemoryStore::Mode::kIsGone);
  EXPECT_TRUE(has(end_of_wait(), "the job's store is gone"));
}

TEST_F(MonitorTest, one_after_the_other_watches) {
  start();
  play(Beat::State::kFailed, "first");
  EXPECT_TRUE(has(end_of_wait(), "first"));
  play(Beat::State::kRunning);
  start({.interval = 0.01, .limit = 0});
  EXPECT_EQ(verdict(), std::nullopt);
}

TEST_F(MonitorTest, a_child_made_by_fork_has_none) {
  start();
  const pid_t child = fork();
  if (child == 0) {
    report_failure("of the child");
    stop_monitor();
    _exit(verdict() ? 1 : 0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(own_beat().state, Beat::State::kRunning);
}

TEST_F(MonitorTest, threads_note_ops_while_it_beats) {
  start({.interval = 0.0005, .limit = 0});
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([] {
      Stamp stamp;
      for (int j = 0; j < 2000; ++j) {
        stamp.set_text("op " + std::to_string(j));
        note_op(stamp, "line");
        note_op_ended();
        verdict();
        last_said(1);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(verdict(), std::nullopt);
}

}  // namespace
}  // namespace torch_mesh

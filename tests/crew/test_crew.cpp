// test_crew.cpp: each task runs once, behind all of the phase before it.
//
// What tasks write is plain memory, so that ThreadSanitizer sees an order that
// is missing.

#include "crew/crew.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace torch_mesh {
namespace {

// Now and then a thread is late, by a microsecond or, seldom, by a turn of
// another one.
void delay_at_random() {
  thread_local std::minstd_rand random(
      std::hash<std::thread::id>()(std::this_thread::get_id()));
  const auto number = random() >> 4;
  if (number % 16'384 == 0) {
    std::this_thread::yield();
  } else if (number % 16 == 1) {
    const auto begin = std::chrono::steady_clock::now();
    const auto late = std::chrono::nanoseconds(number / 16 % 2048);
    while (std::chrono::steady_clock::now() - begin < late) {
    }
  }
}

// Phases over numbers of which no sum may be re-ordered: each task of a
// phase reads what all tasks of the phase before have written.
class Mixing {
 public:
  explicit Mixing(int width)
      : counts_{width, 1, width, 0, width},
        values_(counts_.size() + 1, std::vector<double>(width)),
        runs_(counts_.size(), std::vector<int64_t>(width)) {
    for (int i = 0; i < width; ++i) {
      values_[0][i] = 1.0 / (i + 3);
    }
  }

  const std::vector<int>& counts() const { return counts_; }

  void operator()(int phase, int task) {
    double sum = 0.5;
    // The phase before the last has no tasks.
    for (const double value : values_[phase == 4 ? 3 : phase]) {
      sum += value * (task + 1);
    }
    values_[phase + 1][task] = std::sin(sum);
    ++runs_[phase][task];
  }

  // Behind each step: its results become what the next one begins with.
  void turn() {
    values_[3 + 1] = values_[3];
    values_[0] = values_.back();
  }

  const std::vector<double>& values() const { return values_[0]; }

  bool has_run_each(int64_t times) const {
    for (size_t phase = 0; phase < counts_.size(); ++phase) {
      for (int task = 0; task < counts_[phase]; ++task) {
        if (runs_[phase][task] != times) {
          return false;
        }
      }
    }
    return true;
  }

 private:
  std::vector<int> counts_;
  std::vector<std::vector<double>> values_;
  std::vector<std::vector<int64_t>> runs_;
};

void expect_bits_of_one_thread(Crew::Options options, int width, int steps) {
  Mixing expected(width);
  Crew alone({.helpers = 0});
  Mixing mixing(width);
  Crew crew(std::move(options));
  for (int i = 0; i < steps; ++i) {
    EXPECT_EQ(alone.run(expected.counts(), std::ref(expected)), 0);
    crew.run(mixing.counts(), std::ref(mixing));
    expected.turn();
    mixing.turn();
  }
  EXPECT_EQ(mixing.values(), expected.values());
  EXPECT_TRUE(mixing.has_run_each(steps));
}

TEST(Crew, RunsEachTaskOnceWhateverComesBetween) {
  expect_bits_of_one_thread(
      {.helpers = 3, .pause = delay_at_random}, /*width=*/4, 100'000);
}

TEST(Crew, SleepsAndWakes) {
  // Nobody stays awake: each wait is one for the bell.
  expect_bits_of_one_thread({.helpers = 2, .awake = 0}, /*width=*/3, 5'000);
}

TEST(Crew, WorksWithoutAPause) {
  expect_bits_of_one_thread({.helpers = 1}, /*width=*/2, 20'000);
}

TEST(Crew, RunsTasksOfAPhaseAtTheSameTime) {
  Crew crew({.helpers = 2});
  std::barrier all(3);
  const std::vector<int> counts{3, 3};
  alarm(60);  // a task that is alone waits for good
  EXPECT_EQ(crew.run(counts, [&](int, int) { all.arrive_and_wait(); }), 4);
  alarm(0);
}

TEST(Crew, DoesTheWorkOfHelpersThatDoNotCome) {
  std::atomic<bool> may_begin{false};
  Crew crew({.helpers = 2, .on_start = [&] { may_begin.wait(false); }});
  Mixing mixing(8);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(crew.run(mixing.counts(), std::ref(mixing)), 0);
  }
  EXPECT_TRUE(mixing.has_run_each(100));
  may_begin = true;
  may_begin.notify_all();
}

TEST(Crew, ThrowsWhatATaskThrewFirstAndGoesOn) {
  Crew crew({.helpers = 2, .pause = delay_at_random});
  for (int i = 0; i < 500; ++i) {
    std::atomic<int> later{0};
    const auto task = [&](int phase, int number) {
      if (phase == 1 && number == 3) {
        throw std::runtime_error("task 3");
      }
      later += phase == 2;
    };
    const std::vector<int> counts{4, 6, 4};
    try {
      crew.run(counts, task);
      FAIL() << "no error";
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(std::string(error.what()), "task 3");
    }
    EXPECT_EQ(later, 0);
    Mixing mixing(5);
    crew.run(mixing.counts(), std::ref(mixing));
    EXPECT_TRUE(mixing.has_run_each(1));
  }
}

TEST(Crew, ServesACallerFromInsideOfATask) {
  Crew crew({.helpers = 2});
  std::atomic<int> inner{0};
  const std::vector<int> counts{3};
  crew.run(counts, [&](int, int) {
    EXPECT_EQ(crew.run(counts, [&](int, int) { ++inner; }), 0);
  });
  EXPECT_EQ(inner, 9);
}

TEST(Crew, ServesCallersOnManyThreads) {
  Crew crew({.helpers = 2, .pause = delay_at_random});
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      Mixing expected(3);
      Mixing mixing(3);
      Crew alone({.helpers = 0});
      for (int i = 0; i < 2'000; ++i) {
        alone.run(expected.counts(), std::ref(expected));
        crew.run(mixing.counts(), std::ref(mixing));
        expected.turn();
        mixing.turn();
      }
      EXPECT_EQ(mixing.values(), expected.values());
      EXPECT_TRUE(mixing.has_run_each(2'000));
    });
  }
}

TEST(Crew, HasNothingToDo) {
  Crew crew({.helpers = 1});
  int runs = 0;
  EXPECT_EQ(crew.run({}, [&](int, int) { ++runs; }), 0);
  const std::vector<int> none{0, 0};
  EXPECT_EQ(crew.run(none, [&](int, int) { ++runs; }), 0);
  EXPECT_EQ(runs, 0);
}

TEST(Crew, RefusesMoreTasksThanAWordHolds) {
  Crew crew({.helpers = 1});
  std::atomic<int> runs{0};
  const std::vector<int> most{Crew::kMaxTasks};
  crew.run(most, [&](int, int) { ++runs; });
  EXPECT_EQ(runs, Crew::kMaxTasks);
  const std::vector<int> more{Crew::kMaxTasks + 1};
  EXPECT_THROW(crew.run(more, [](int, int) {}), std::invalid_argument);
}

TEST(Crew, WorksAndEndsInAForkedChild) {
  auto crew = std::make_unique<Crew>(Crew::Options{.helpers = 2});
  Mixing mixing(4);
  crew->run(mixing.counts(), std::ref(mixing));
  const pid_t child = fork();
  ASSERT_NE(child, -1);
  if (child == 0) {
    alarm(20);
    crew->run(mixing.counts(), std::ref(mixing));
    const bool right = mixing.has_run_each(2);
    crew.reset();
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  crew->run(mixing.counts(), std::ref(mixing));
  EXPECT_TRUE(mixing.has_run_each(2));
}

}  // namespace
}  // namespace torch_mesh

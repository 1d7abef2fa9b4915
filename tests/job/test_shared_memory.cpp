// Exchanges of processes of one host through shared memory.

#include "job/shared_memory.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "job/exchanges.h"
#include "job/forked_processes.h"
#include "job/waiting.h"

namespace torch_mesh {
namespace {

constexpr uint64_t kJob = 0xfeedfacecafebeef;
// For four processes or fewer: rings of the least size, or little above.
constexpr size_t kSmallBudget = size_t{1} << 20;

using Body = std::function<void(Exchanges& exchanges, int process)>;

void expect_exchanges(int num, size_t budget, const Body& body) {
  expect_in_processes(num, [&](int process, Store& store) {
    const auto memory = SharedMemory::open(store, process, num, kJob, budget);
    for (int other = 0; other < num; ++other) {
      ASSERT_EQ(memory->serves(other), other != process) << other;
    }
    Exchanges exchanges(*memory, process, num);
    body(exchanges, process);
  });
}

TEST(SharedMemory, AllSizesComeAsTheyWereSent) {
  constexpr size_t kRing = SegmentShape::kLargestRing;
  for (const int num : {2, 3, 4}) {
    expect_exchanges(
        num,
        SharedMemory::kDefaultBudget,
        [](Exchanges& exchanges, int process) {
          for (const size_t size : {size_t{1},
                                    size_t{3},
                                    size_t{4},
                                    size_t{4096},
                                    size_t{65535},
                                    kRing - 161,
                                    kRing - 160,
                                    kRing - 159,
                                    kRing,
                                    kRing + 1,
                                    size_t{5'000'000}}) {
            EXPECT_TRUE(exchanges.exchange([&](int, int) { return size; }))
                << size;
          }
        });
  }
}

TEST(SharedMemory, UnevenMessagesLargerThanTheRingsCome) {
  for (const int num : {2, 4}) {
    expect_exchanges(num, kSmallBudget, [&](Exchanges& exchanges, int process) {
      for (const size_t unit : {1, 5000, 200'000}) {
        EXPECT_TRUE(exchanges.exchange([&](int from, int to) {
          return unit * (1 + from * num + to) - (unit > 1 ? from : 0);
        })) << unit;
      }
    });
  }
}

TEST(SharedMemory, ReceiverMayCutRunsOtherwise) {
  expect_exchanges(3, kSmallBudget, [](Exchanges& exchanges, int process) {
    for (const size_t size : {7, 1000, 300'000}) {
      for (const int max_runs : {2, 50, 2000}) {
        EXPECT_TRUE(
            exchanges.exchange([&](int, int) { return size; }, max_runs))
            << size << " " << max_runs;
      }
    }
  });
}

TEST(SharedMemory, BytesGoAroundInOneDirection) {
  expect_exchanges(4, kSmallBudget, [](Exchanges& exchanges, int process) {
    for (const size_t size : {4, 1'000'000}) {
      EXPECT_TRUE(exchanges.exchange(
          [&](int from, int to) { return to == (from + 1) % 4 ? size : 0; }));
    }
  });
}

TEST(SharedMemory, ExchangesOfNothingAreNoMessages) {
  expect_exchanges(2, kSmallBudget, [](Exchanges& exchanges, int process) {
    // A process that waits for a message would wait for ever.
    if (process == 0) {
      EXPECT_TRUE(exchanges.exchange([](int, int) { return 0; }));
    }
  });
}

TEST(SharedMemory, TenThousandExchangesInRandomPatternsCome) {
  for (const int num : {2, 3}) {
    expect_exchanges(num, kSmallBudget, [&](Exchanges& exchanges, int process) {
      std::mt19937 common(7);
      int num_wrong = 0;
      for (int i = 0; i < 10'000; ++i) {
        std::array<std::array<size_t, 3>, 3> sizes;
        for (auto& row : sizes) {
          for (size_t& size : row) {
            size = common() % 3 == 0 ? 0 : common() % 300;
            size += common() % 500 == 0 ? 100'000 : 0;
          }
        }
        num_wrong += !exchanges.exchange(
            [&](int from, int to) { return sizes[from][to]; }, 3);
      }
      EXPECT_EQ(num_wrong, 0);
    });
  }
}

std::atomic<int> num_slices{0};

TEST(SharedMemory, ProcessesWakeEachOther) {
  expect_exchanges(2, kSmallBudget, [](Exchanges& exchanges, int process) {
    // Asked when a slice of waiting is over, and nobody has woken the thread.
    set_verdict_hook([](int) { ++num_slices; });
    for (int i = 0; i < 5; ++i) {
      for (const int sender : {0, 1}) {
        EXPECT_TRUE(exchanges.exchange(
            [&](int from, int) { return from == sender ? 10'000'000 : 0; }));
      }
    }
    // Some are, where others keep both from running; a hundred rings are full.
    EXPECT_LT(num_slices, 50);
    set_verdict_hook(nullptr);
  });
}

TEST(SharedMemory, AnotherThreadMayFinish) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto memory = SharedMemory::open(store, process, 2, kJob);
    const int other = 1 - process;
    for (const uint64_t step : {1, 2, 3}) {
      const auto sent = message_of(process, other, step, 3'000'000);
      std::vector<std::byte> received(sent.size());
      const Outgoing send{other, sent};
      const Incoming receive{other, received};
      memory->begin(stamp_of(step), {&send, 1}, {&receive, 1});
      std::thread([&] { memory->finish(); }).join();
      EXPECT_EQ(received, message_of(other, process, step, sent.size()));
    }
  });
}

TEST(SharedMemory, BytesOfAProcessThatHasEndedStillCome) {
  expect_in_processes(2, [](int process, Store& store) {
    auto memory = SharedMemory::open(store, process, 2, kJob);
    if (process == 1) {
      const auto sent = message_of(1, 0, 1, 1000);
      const Outgoing send{0, sent};
      memory->begin(stamp_of(1), {&send, 1}, {});
      memory->finish();
      memory.reset();
      store.set("gone", "");
      return;
    }
    store.get("gone", -1);
    std::vector<std::byte> received(1000);
    const Incoming receive{1, received};
    memory->begin(stamp_of(1), {}, {&receive, 1});
    memory->finish();
    EXPECT_EQ(received, message_of(1, 0, 1, 1000));
  });
}

}  // namespace
}  // namespace torch_mesh

// How exchanges through shared memory end where the processes do not agree, or
// one is gone.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <torch_mesh/error.h>

#include "core/error_of.h"
#include "job/exchanges.h"
#include "job/forked_processes.h"
#include "job/ring.h"
#include "job/shared_memory.h"
#include "job/waiting.h"

namespace torch_mesh {
namespace {

constexpr uint64_t kJob = 5;

std::unique_ptr<SharedMemory> opened(int process, Store& store, int num = 2) {
  auto result = SharedMemory::open(store, process, num, kJob);
  for (int other = 0; other < num; ++other) {
    EXPECT_EQ(result->serves(other), other != process);
  }
  return result;
}

// Sends and receives so many bytes.
void trade(
    SharedMemory& memory,
    int other,
    const Stamp& stamp,
    size_t num_sent,
    size_t num_received) {
  const std::vector<std::byte> sent(num_sent);
  std::vector<std::byte> received(num_received);
  const Outgoing send{other, sent};
  const Incoming receive{other, received};
  memory.begin(
      stamp, {&send, num_sent ? 1u : 0u}, {&receive, num_received ? 1u : 0u});
  memory.finish();
}

void expect_mentions(
    const std::string& text,
    const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
}

TEST(SharedMemoryErrors, ProcessesThatSendOtherSizesBothSaySo) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto memory = opened(process, store);
    const size_t size = process == 0 ? 4 : 8;
    const std::string words = process == 0 ? "first" : "second";
    const std::string error = error_of(
        [&] { trade(*memory, 1 - process, stamp_of(1, words), size, size); });
    expect_mentions(
        error,
        {"process 0  first (message 0, 4 bytes)",
         "process 1  second (message 0, 8 bytes)",
         "[processes-differ]"});
  });
}

TEST(SharedMemoryErrors, NoByteIsTakenOfAnotherStep) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto memory = opened(process, store);
    const int other = 1 - process;
    const std::vector<std::byte> sent(100'000, std::byte{1});
    std::vector<std::byte> received(sent.size());
    const Outgoing send{other, sent};
    const Incoming receive{other, received};
    // Messages of equal sizes, of programs with different histories.
    EXPECT_EQ(
        error_code_of([&] {
          memory->begin(stamp_of(process), {&send, 1}, {&receive, 1});
          memory->finish();
        }),
        "processes-differ");
    EXPECT_EQ(received, std::vector<std::byte>(received.size()));
  });
}

TEST(SharedMemoryErrors, WhatNobodyExpectedShowsInTheNextMessage) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto memory = opened(process, store);
    if (process == 1) {
      trade(*memory, 0, stamp_of(1, "alone"), 16, 0);
    }
    const std::string error = error_of(
        [&] { trade(*memory, 1 - process, stamp_of(2, "together"), 16, 16); });
    if (process == 0) {
      expect_mentions(error, {"together", "alone", "[processes-differ]"});
    }
  });
}

TEST(SharedMemoryErrors, OneThatDiffersIsNamedAmongMany) {
  expect_in_processes(3, [](int process, Store& store) {
    set_wait_limit(1);
    const auto memory = opened(process, store, 3);
    Exchanges exchanges(*memory, process, 3);
    const std::string error = error_of([&] {
      exchanges.exchange([&](int from, int to) {
        // As process 2 sees it.
        return process == 2 ? 100 : 200;
      });
    });
    expect_mentions(
        error, {"process 2  a test", "100 bytes", "[processes-differ]"});
  });
}

TEST(SharedMemoryErrors, AfterAnErrorEachCallThrowsItAgain) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto memory = opened(process, store);
    const int other = 1 - process;
    auto trade_again = [&] { trade(*memory, other, stamp_of(process), 4, 4); };
    const std::string error = error_of(trade_again);
    EXPECT_NE(error, "");
    EXPECT_EQ(error_of(trade_again), error);
    EXPECT_EQ(error_of([&] { memory->finish(); }), error);
  });
}

TEST(SharedMemoryErrors, OneThatDoesNotComeIsLate) {
  for (const bool is_sender : {false, true}) {
    expect_in_processes(2, [&](int process, Store& store) {
      const auto memory = opened(process, store);
      if (process == 1) {
        store.get("done", -1);  // it lives, and does something else
        return;
      }
      set_wait_limit(0.2);
      const auto start = std::chrono::steady_clock::now();
      const std::string error = error_of([&] {
        trade(
            *memory,
            1,
            stamp_of(1, "all_gather of w"),
            is_sender ? 5'000'000 : 0,
            is_sender ? 0 : 4);
      });
      const std::chrono::duration<double> time =
          std::chrono::steady_clock::now() - start;
      store.set("done", "");
      EXPECT_GE(time.count(), 0.2);
      EXPECT_LT(time.count(), 5);
      expect_mentions(
          error, {"process 1 ", "0.2 s", "all_gather of w", "[peer-late]"});
    });
  }
}

TEST(SharedMemoryErrors, LimitIsOfEachWaitAlone) {
  expect_in_processes(2, [](int process, Store& store) {
    set_wait_limit(0.3);
    const auto memory = opened(process, store);
    const int other = 1 - process;
    // Together longer than the limit; each step is short.
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t step = 0;; ++step) {
      const bool is_over = std::chrono::steady_clock::now() - start >
                           std::chrono::milliseconds(400);
      // Process 0 says when it is.
      std::byte flag{is_over};
      const Outgoing send{other, {&flag, 1}};
      std::byte told{};
      const Incoming receive{other, {&told, 1}};
      memory->begin(stamp_of(step), {&send, 1}, {&receive, 1});
      memory->finish();
      if ((process == 0 ? flag : told) == std::byte{1}) {
        break;
      }
    }
  });
}

TEST(SharedMemoryErrors, VerdictsAndInterruptsEndAWait) {
  using Setter = void (*)(WaitHook);
  for (const Setter set_hook : {set_verdict_hook, set_interrupt_hook}) {
    for (const bool is_sender : {false, true}) {
      expect_in_processes(2, [&](int process, Store& store) {
        const auto memory = opened(process, store);
        if (process == 1) {
          store.get("done", -1);
          return;
        }
        set_hook([](int process) {
          detail::raise(
              ErrorKind::kProcess,
              "peer-lost",
              "process ",
              process,
              " is gone");
        });
        const std::string error = error_of([&] {
          trade(
              *memory,
              1,
              stamp_of(1),
              is_sender ? 5'000'000 : 0,
              is_sender ? 0 : 4);
        });
        set_hook(nullptr);
        EXPECT_EQ(error, "process 1 is gone [peer-lost]");
        store.set("done", "");
      });
    }
  }
}

// Where this process has mapped the segments.
std::vector<std::span<std::byte>> mapped_segments() {
  std::vector<std::span<std::byte>> result;
  FILE* maps = std::fopen("/proc/self/maps", "r");
  char line[512];
  while (maps && std::fgets(line, sizeof(line), maps)) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    if (std::strstr(line, "/dev/shm/torch-mesh-") &&
        std::sscanf(line, "%lx-%lx", &begin, &end) == 2) {
      result.emplace_back(reinterpret_cast<std::byte*>(begin), end - begin);
    }
  }
  if (maps) {
    std::fclose(maps);
  }
  return result;
}

TEST(SharedMemoryErrors, ForkedChildMayNotUseAndDoesNotDisturb) {
  expect_in_processes(2, [](int process, Store& store) {
    auto memory = opened(process, store);
    Exchanges exchanges(*memory, process, 2);
    EXPECT_TRUE(exchanges.exchange([](int, int) { return 1000; }));
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      const std::string used = error_code_of(
          [&] { exchanges.exchange([](int, int) { return 1000; }); });
      memory.reset();
      _exit(used == "forked-process" && mapped_segments().empty() ? 0 : 1);
    }
    EXPECT_TRUE(exchanges.exchange([](int, int) { return 3'000'000; }));
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_TRUE(exchanges.exchange([](int, int) { return 1000; }));
  });
}

TEST(SharedMemoryErrors, DamagedMemoryIsAnErrorAndNoCrash) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto memory = opened(process, store);
    if (process == 1) {
      const auto segments = mapped_segments();
      EXPECT_EQ(segments.size(), 2u);
      for (const std::span<std::byte> segment : segments) {
        std::memset(segment.data(), 0xa5, segment.size());
      }
      store.set("damaged", "");
      return;
    }
    store.get("damaged", -1);
    const std::string error =
        error_of([&] { trade(*memory, 1, stamp_of(1), 2'000'000, 4); });
    expect_mentions(error, {"process 1", "[peer-lost]"});
  });
}

TEST(SharedMemoryErrors, HeadsOfRandomBytesAreNotTaken) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto memory = opened(process, store);
    if (process == 1) {
      // Positions stay right, and all bytes of messages become others.
      for (const std::span<std::byte> segment : mapped_segments()) {
        std::memset(segment.data() + 8192, 0xff, segment.size() - 8192);
        reinterpret_cast<RingPositions*>(segment.data() + 4096)->written = 1000;
      }
      store.set("damaged", "");
      return;
    }
    store.get("damaged", -1);
    const std::string error =
        error_of([&] { trade(*memory, 1, stamp_of(1), 0, 4); });
    expect_mentions(error, {"another job", "[processes-differ]"});
  });
}

}  // namespace
}  // namespace torch_mesh

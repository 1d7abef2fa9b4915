// Which processes share memory, and what they leave behind.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error_of.h"
#include "job/exchanges.h"
#include "job/forked_processes.h"
#include "job/shared_memory.h"
#include "job/waiting.h"

namespace torch_mesh {
namespace {

constexpr uint64_t kJob = 5;

// What a process leaves in the store goes through a hook first.
class WatchedStore final : public Store {
 public:
  using Hook = std::function<void(const std::string& key, std::string& value)>;
  WatchedStore(Store& inner, Hook hook)
      : inner_(inner), hook_(std::move(hook)) {}

  void set(const std::string& key, const std::string& value) override {
    std::string changed = value;
    hook_(key, changed);
    inner_.set(key, changed);
  }
  std::string get(const std::string& key, int process) override {
    return inner_.get(key, process);
  }
  std::vector<std::optional<std::string>> try_get(
      const std::vector<std::string>& keys) override {
    return inner_.try_get(keys);
  }
  int64_t add(const std::string& key, int64_t amount) override {
    return inner_.add(key, amount);
  }
  std::unique_ptr<Store> clone() override { return inner_.clone(); }

 private:
  Store& inner_;
  const Hook hook_;
};

bool is_step(const std::string& key, const std::string& step) {
  return key.find("/" + step + "/") != std::string::npos;
}

std::string path_of(const std::string& name) { return "/dev/shm/" + name; }

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

// "011": whom this process shares memory with.
std::string served(const SharedMemory& memory, int num) {
  std::string result;
  for (int other = 0; other < num; ++other) {
    result += memory.serves(other) ? '1' : '0';
  }
  return result;
}

// By process.
void expect_served(
    const SharedMemory& memory,
    int process,
    const std::vector<std::string>& expected) {
  EXPECT_EQ(
      served(memory, static_cast<int>(expected.size())), expected[process]);
}

TEST(SharedMemoryOpening, OneProcessSharesWithNobody) {
  InheritedStore store;
  const auto memory = SharedMemory::open(store, 0, 1, kJob);
  EXPECT_EQ(served(*memory, 1), "0");
  EXPECT_FALSE(memory->serves(-1));
  EXPECT_FALSE(memory->serves(1));
}

TEST(SharedMemoryOpening, FilesAreOfOneUserWhileTheyStandAndGoAtOnce) {
  expect_in_processes(3, [](int process, Store& store) {
    std::string path;
    WatchedStore watched(
        store, [&](const std::string& key, std::string& value) {
          if (is_step(key, "name")) {
            path = path_of(value);
            struct stat status;
            ASSERT_EQ(stat(path.c_str(), &status), 0);
            EXPECT_EQ(status.st_mode & 07777, 0600u);
            EXPECT_EQ(status.st_uid, geteuid());
            EXPECT_EQ(path.size(), path_of("torch-mesh-").size() + 32);
          }
          if (is_step(key, "rings")) {
            EXPECT_FALSE(exists(path)) << path;
          }
        });
    const auto memory = SharedMemory::open(watched, process, 3, kJob);
    expect_served(*memory, process, {"011", "101", "110"});
    EXPECT_FALSE(path.empty());
  });
}

TEST(SharedMemoryOpening, NothingIsLeftOfAProcessThatIsKilled) {
  const std::vector<int> ends = run_processes(2, [](int process, Store& store) {
    WatchedStore watched(
        store, [&](const std::string& key, std::string& value) {
          if (is_step(key, "name")) {
            store.set("path" + std::to_string(process), path_of(value));
          }
        });
    const auto memory = SharedMemory::open(watched, process, 2, kJob);
    ASSERT_TRUE(memory->serves(1 - process));
    if (process == 1) {
      raise(SIGKILL);
    }
    EXPECT_FALSE(exists(store.get("path1", 1)));
    EXPECT_FALSE(exists(store.get("path0", 0)));
  });
  EXPECT_EQ(ends[0], 0);
  EXPECT_TRUE(WIFSIGNALED(ends[1]));
}

// Alone in a job of two: the other one comes, but gets no further than `steps`.
void expect_nothing_is_left(const std::vector<std::string>& steps) {
  expect_in_processes(1, [&](int process, Store& store) {
    set_wait_limit(0.1);
    std::string path;
    WatchedStore watched(
        store, [&](const std::string& key, std::string& value) {
          for (const std::string& step : steps) {
            if (is_step(key, step)) {
              store.set(key.substr(0, key.size() - 1) + "1", "-");
            }
          }
          if (is_step(key, "name")) {
            path = path_of(value);
            EXPECT_TRUE(exists(path));
          }
        });
    EXPECT_EQ(
        error_code_of([&] { SharedMemory::open(watched, 0, 2, kJob); }),
        "peer-late");
    EXPECT_EQ(path.empty(), steps.empty());
    EXPECT_FALSE(exists(path));
  });
}

TEST(SharedMemoryOpening, NothingIsLeftWhereAnotherStops) {
  expect_nothing_is_left({});
  expect_nothing_is_left({"present"});
  expect_nothing_is_left({"present", "name"});
  expect_nothing_is_left({"present", "name", "tokens"});
  expect_nothing_is_left({"present", "name", "tokens", "rings"});
}

TEST(SharedMemoryOpening, WhoTellsAnotherTokenIsNotServed) {
  expect_in_processes(3, [](int process, Store& store) {
    WatchedStore watched(
        store, [&](const std::string& key, std::string& value) {
          if (process == 1 && is_step(key, "tokens")) {
            value[0] = value[0] == 'a' ? 'b' : 'a';  // of process 0
          }
        });
    const auto memory = SharedMemory::open(watched, process, 3, kJob);
    expect_served(*memory, process, {"001", "001", "110"});
  });
}

TEST(SharedMemoryOpening, WhoLeavesNonsenseIsNotServed) {
  const std::string name = "torch-mesh-0123456789abcdef0123456789abcdef";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"name", ""},
      {"name", "../../etc/passwd"},
      {"name", name},
      {"name", name + "/"},
      {"tokens", ""},
      {"tokens", "- - - - - - - - -"},
      {"rings", ""},
      {"rings", "0 111"},
      {"rings", "-1 111"},
      {"rings", "65536 101"},
      {"rings", "65535 111"},
      {"rings", "18446744073709551615 111111111111"},
      {"rings", std::string(1000, '1')},
      {"mapped", ""},
      {"mapped", "000"},
  };
  for (const auto& [step, nonsense] : cases) {
    SCOPED_TRACE(step + ": " + nonsense);
    expect_in_processes(3, [&](int process, Store& store) {
      WatchedStore watched(
          store, [&](const std::string& key, std::string& value) {
            if (process == 1 && is_step(key, step)) {
              value = nonsense;
            }
          });
      const auto memory = SharedMemory::open(watched, process, 3, kJob);
      EXPECT_FALSE(memory->serves(1));
      if (process != 1) {
        EXPECT_TRUE(memory->serves(2 - process));
      } else if (step != "mapped") {
        EXPECT_EQ(served(*memory, 3), "000");
      }
    });
  }
}

TEST(SharedMemoryOpening, WaysThroughFoldersAreNoNames) {
  expect_in_processes(2, [](int process, Store& store) {
    WatchedStore watched(
        store, [&](const std::string& key, std::string& value) {
          if (process == 1 && is_step(key, "name")) {
            value = "../shm/" + value;
          }
        });
    const auto memory = SharedMemory::open(watched, process, 2, kJob);
    EXPECT_FALSE(memory->serves(1 - process));
  });
}

TEST(SharedMemoryOpening, NobodyIsServedBeyondTheBudget) {
  const auto least = [](size_t num) {
    return num * SegmentShape{num - 1, SegmentShape::kLeastRing}.num_bytes();
  };
  for (const bool is_enough : {false, true}) {
    expect_in_processes(3, [&](int process, Store& store) {
      const size_t budget = least(3) - (is_enough ? 0 : 1);
      const auto memory = SharedMemory::open(store, process, 3, kJob, budget);
      EXPECT_EQ(memory->serves((process + 1) % 3), is_enough);
      EXPECT_EQ(memory->serves((process + 2) % 3), is_enough);
    });
  }
}

TEST(SharedMemoryOpening, WhoCannotReserveMemoryIsNotServed) {
  // Not even a page; a page, but no rings.
  for (const rlim_t most : {rlim_t{100}, rlim_t{100'000}}) {
    expect_in_processes(3, [&](int process, Store& store) {
      if (process == 2) {
        const rlimit limit{most, most};
        ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
      }
      const auto memory = SharedMemory::open(store, process, 3, kJob);
      expect_served(*memory, process, {"010", "100", "000"});
      Exchanges exchanges(*memory, process, 3);
      EXPECT_TRUE(exchanges.exchange(
          [](int from, int to) { return from < 2 && to < 2 ? 5000 : 0; }));
    });
  }
}

TEST(SharedMemoryOpening, TwoJobsLiveSideBySide) {
  expect_in_processes(2, [](int process, Store& store) {
    const auto first = SharedMemory::open(store, process, 2, 1);
    const auto second = SharedMemory::open(store, process, 2, 2);
    Exchanges in_first(*first, process, 2);
    Exchanges in_second(*second, process, 2);
    EXPECT_TRUE(in_second.exchange([](int, int) { return 10; }));
    EXPECT_TRUE(in_first.exchange([](int, int) { return 20; }));
  });
}

TEST(SharedMemoryOpening, SegmentsShrinkWithTheNumberOfProcesses) {
  auto ring = [](size_t num_processes) {
    return SegmentShape::within(
               SharedMemory::kDefaultBudget / num_processes, num_processes - 1)
        .ring_bytes;
  };
  EXPECT_EQ(ring(2), size_t{1} << 20);
  EXPECT_EQ(ring(5), size_t{1} << 20);
  EXPECT_EQ(ring(8), size_t{1} << 19);
  EXPECT_EQ(ring(23), size_t{1} << 16);
  EXPECT_EQ(ring(24), 0u);
}

}  // namespace
}  // namespace torch_mesh

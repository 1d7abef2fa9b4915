// forked_processes.cpp: a table of texts in inherited memory, and children.

#include "job/forked_processes.h"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>

#include <torch_mesh/mesh.h>

#include "job/waiting.h"

namespace torch_mesh {

// Entries are only added, so a reader needs no lock. A killed process never
// holds one.
struct InheritedStore::Table {
  struct Entry {
    std::atomic<int> is_ready;
    char key[120];
    char value[3968];
  };
  static constexpr int kSize = 512;

  std::atomic<int> num;
  std::atomic<uint32_t> changes;  // also what waiters sleep on
  Entry entries[kSize];
};

InheritedStore::InheritedStore()
    : InheritedStore(
          new (mmap(
              nullptr,
              sizeof(Table),
              PROT_READ | PROT_WRITE,
              MAP_SHARED | MAP_ANONYMOUS,
              -1,
              0)) Table,
          /*is_owner=*/true) {}

InheritedStore::InheritedStore(Table* table, bool is_owner)
    : table_(table), is_owner_(is_owner) {}

InheritedStore::~InheritedStore() {
  if (is_owner_) {
    munmap(static_cast<void*>(table_), sizeof(Table));
  }
}

void InheritedStore::set(const std::string& key, const std::string& value) {
  append(key, value);
}

int InheritedStore::append(const std::string& key, const std::string& value) {
  const int index = table_->num.fetch_add(1);
  if (index >= Table::kSize || key.size() >= sizeof(Table::Entry::key) ||
      value.size() >= sizeof(Table::Entry::value)) {
    throw std::length_error("InheritedStore: no place for " + key);
  }
  Table::Entry& entry = table_->entries[index];
  std::strcpy(entry.key, key.c_str());
  std::strcpy(entry.value, value.c_str());
  entry.is_ready = 1;
  ++table_->changes;
  syscall(
      SYS_futex, &table_->changes, FUTEX_WAKE, 1 << 30, nullptr, nullptr, 0);
  return index;
}

std::optional<std::string> InheritedStore::find(const std::string& key) const {
  for (int i = std::min<int>(table_->num, Table::kSize) - 1; i >= 0; --i) {
    const Table::Entry& entry = table_->entries[i];
    if (entry.is_ready && key == entry.key) {
      return entry.value;
    }
  }
  return std::nullopt;
}

std::string InheritedStore::get(const std::string& key, int /*process*/) {
  const Wait wait(-1);
  while (true) {
    const uint32_t changes = table_->changes;
    if (const auto value = find(key)) {
      return *value;
    }
    const timespec slice{0, std::chrono::nanoseconds(Wait::kSlice).count()};
    syscall(
        SYS_futex, &table_->changes, FUTEX_WAIT, changes, &slice, nullptr, 0);
    wait.check(("store: " + key).c_str());
  }
}

std::vector<std::optional<std::string>> InheritedStore::try_get(
    const std::vector<std::string>& keys) {
  std::vector<std::optional<std::string>> result;
  for (const std::string& key : keys) {
    result.push_back(find(key));
  }
  return result;
}

// The sum of what is added up to the own entry.
int64_t InheritedStore::add(const std::string& key, int64_t amount) {
  const std::string name = key + "/added";
  const int last = append(name, std::to_string(amount));
  int64_t result = 0;
  for (int i = 0; i <= last; ++i) {
    const Table::Entry& entry = table_->entries[i];
    while (!entry.is_ready) {
    }
    result += name == entry.key ? std::stoll(entry.value) : 0;
  }
  return result;
}

std::unique_ptr<Store> InheritedStore::clone() {
  return std::unique_ptr<Store>(new InheritedStore(table_, /*is_owner=*/false));
}

namespace {

[[noreturn]] void run_child(int process, const Work& work, Store& store) {
  set_this_process(process);
  set_wait_limit(20);
  alarm(60);
  try {
    work(process, store);
  } catch (const std::exception& error) {
    ADD_FAILURE() << "process " << process << ": " << error.what();
  }
  std::fflush(nullptr);
  _exit(testing::Test::HasFailure() ? 1 : 0);
}

}  // namespace

std::vector<int> run_processes(int num, const Work& work) {
  InheritedStore store;
  std::vector<pid_t> children;
  std::fflush(nullptr);
  for (int process = 0; process < num; ++process) {
    const pid_t child = fork();
    if (child == 0) {
      run_child(process, work, store);
    }
    EXPECT_GT(child, 0) << std::strerror(errno);
    children.push_back(child);
  }
  std::vector<int> result;
  for (const pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    result.push_back(status);
  }
  return result;
}

void expect_in_processes(int num, const Work& work) {
  EXPECT_EQ(run_processes(num, work), std::vector<int>(num, 0));
}

}  // namespace torch_mesh

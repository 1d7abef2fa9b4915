// memory_store.h: a store for threads of one process, which can stand still.

#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "job/store.h"

namespace torch_mesh {

class MemoryStore final : public Store {
 public:
  MemoryStore() : shared_(std::make_shared<Shared>()) {}

  void set(const std::string& key, const std::string& value) override {
    const auto lock = answer();
    shared_->values[key] = value;
    shared_->changed.notify_all();
  }
  std::string get(const std::string& key, int /*process*/) override {
    auto lock = answer();
    shared_->changed.wait(lock, [&] { return shared_->values.contains(key); });
    return shared_->values[key];
  }
  std::vector<std::optional<std::string>> try_get(
      const std::vector<std::string>& keys) override {
    const auto lock = answer();
    std::vector<std::optional<std::string>> values;
    for (const std::string& key : keys) {
      const auto found = shared_->values.find(key);
      values.push_back(
          found == shared_->values.end() ? std::nullopt
                                         : std::optional(found->second));
    }
    return values;
  }
  int64_t add(const std::string& key, int64_t amount) override {
    const auto lock = answer();
    std::string& value = shared_->values[key];
    value = std::to_string((value.empty() ? 0 : std::stoll(value)) + amount);
    return std::stoll(value);
  }
  std::unique_ptr<Store> clone() override {
    return std::unique_ptr<Store>(new MemoryStore(shared_));
  }

  enum class Mode { kAnswers, kStandsStill, kIsGone };
  void become(Mode mode) {
    const std::unique_lock lock(shared_->mutex);
    shared_->mode = mode;
    shared_->changed.notify_all();
  }
  // Waits until a key has a value that `is_right` likes; false after 20 s.
  template <typename IsRight>
  bool wait_for(const std::string& key, IsRight is_right) {
    std::unique_lock lock(shared_->mutex);
    return shared_->changed.wait_for(lock, std::chrono::seconds(20), [&] {
      return is_right(shared_->values[key]);
    });
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::string, std::string> values;
    Mode mode = Mode::kAnswers;
  };
  explicit MemoryStore(std::shared_ptr<Shared> shared)
      : shared_(std::move(shared)) {}

  std::unique_lock<std::mutex> answer() {
    std::unique_lock lock(shared_->mutex);
    shared_->changed.wait(
        lock, [&] { return shared_->mode != Mode::kStandsStill; });
    if (shared_->mode == Mode::kIsGone) {
      throw std::runtime_error("connection reset");
    }
    return lock;
  }

  const std::shared_ptr<Shared> shared_;
};

}  // namespace torch_mesh

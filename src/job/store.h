// store.h: where the processes of a job leave each other short texts.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace torch_mesh {

// Keys and values of all processes of a job. Nothing that is read is trusted.
// Threads: one at a time; `clone` gives another thread one of its own.
class Store {
 public:
  virtual ~Store() = default;
  virtual void set(const std::string& key, const std::string& value) = 0;
  // Waits until it is set. Throws what Wait throws.
  //
  //   process  that sets it; -1: nobody in particular
  virtual std::string get(const std::string& key, int process) = 0;
  // Those that are set, without waiting; nullopt for the others. One round trip
  // where all are.
  virtual std::vector<std::optional<std::string>> try_get(
      const std::vector<std::string>& keys) = 0;
  // Adds to a number that begins with 0, and returns it.
  virtual int64_t add(const std::string& key, int64_t amount) = 0;
  virtual std::unique_ptr<Store> clone() = 0;
};

}  // namespace torch_mesh

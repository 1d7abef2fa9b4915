// forked_processes.h: processes of a job, as children of the test, and a store
// in memory that they inherit.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "job/store.h"

namespace torch_mesh {

// Whoever is forked after it is made shares it. Threads: any.
class InheritedStore final : public Store {
 public:
  InheritedStore();
  ~InheritedStore() override;

  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, int process) override;
  std::vector<std::optional<std::string>> try_get(
      const std::vector<std::string>& keys) override;
  int64_t add(const std::string& key, int64_t amount) override;
  std::unique_ptr<Store> clone() override;

 private:
  struct Table;
  InheritedStore(Table* table, bool is_owner);
  // Returns the entry's index.
  int append(const std::string& key, const std::string& value);
  std::optional<std::string> find(const std::string& key) const;

  Table* const table_;
  const bool is_owner_;
};

// Runs `work` once in each of `num` forked processes, with this_process() and a
// store in common, and expects that each ends well: without an exception, a
// failed expectation or a signal, within a minute. A process that waits for
// another gives up after 20 s.
using Work = std::function<void(int process, Store& store)>;
void expect_in_processes(int num, const Work& work);

// The same, but returns what waitpid says of each.
std::vector<int> run_processes(int num, const Work& work);

}  // namespace torch_mesh

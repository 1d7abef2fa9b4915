// counters.h: counts what runs, for <torch_mesh/trace.h>; and the log.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <torch_mesh/redistribute.h>
#include <torch_mesh/trace.h>

namespace torch_mesh {

// Threads: all functions here may be called from any thread.

// Events are kept while at least one keeper is there; `since` is the number of
// events kept so far.
size_t keep_events();
std::vector<CollectiveEvent> events_since(size_t since);
void release_events();

void count_op();
void count_plan();
// Says so once per op in the log.
void count_replicated(const std::string& op);
// Slices and R -> P+ move nothing and are not counted.
//   received   as Step::received
void count_collective(
    Step::Kind kind,
    const Mesh& mesh,
    int axis,
    int64_t num_bytes,
    const std::vector<int64_t>& received);
void count_step(const Step& step);
// A collective that the communicator runs. None where all devices share one
// memory: nothing has to move there.
void count_call(Step::Kind kind, const Mesh& mesh, int axis);
void count_call(const Step& step);
// Bytes that `device` of the mesh has read from other memories.
void count_moved(const Mesh& mesh, int device, int64_t num_bytes);

// Names the op on whose behalf this thread works, for events and errors.
class CurrentOp {
 public:
  explicit CurrentOp(const std::string& name);
  ~CurrentOp();
  CurrentOp(const CurrentOp&) = delete;
  CurrentOp& operator=(const CurrentOp&) = delete;
  static const std::string& name();

  // Of the innermost one from now on: "all_gather@model 24 B" for each
  // collective that it runs, in order.
  static void listen(std::vector<std::string>* collectives);

 private:
  friend void count_collective(
      Step::Kind,
      const Mesh&,
      int,
      int64_t,
      const std::vector<int64_t>&);

  const std::string& name_;
  CurrentOp* const outer_;
  std::vector<std::string>* collectives_ = nullptr;
};

// One line to stderr, "torch_mesh: <text>"; in a job of several processes
// "torch_mesh: process 1 of 2: <text>".
void log_line(const std::string& text);

// What stands before the text of each line; "" for nothing.
void set_log_name(std::string name);

}  // namespace torch_mesh

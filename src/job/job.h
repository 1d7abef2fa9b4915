// job.h: the processes that run one program together.

#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "job/transport.h"

namespace torch_mesh {

struct Job {
  int process = 0;
  int num_processes = 1;
  // Whether the processes compare each call (run/noted_call.h).
  bool checks_calls = false;
  // How to reach each process; nullptr: this one. Several may share one.
  std::vector<std::shared_ptr<Transport>> transports;
};

// Makes this process part of a job: from now on meshes may have devices of its
// other processes. Throws [initialized-twice] in a job, and [initialized-late]
// if a mesh of devices was made before the first job of several processes: its
// devices were taken for all there are; or if an earlier job gave this process
// another number, which its meshes name.
void start_job(Job job);
// Leaves it without a word to the others; nothing if there is none.
void end_job();
// nullptr outside of a job. Valid until it ends.
const Job* current_job();

// Throws [no-job] if there is no such process.
Transport& transport_to(int process);

}  // namespace torch_mesh

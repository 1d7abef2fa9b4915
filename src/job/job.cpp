// job.cpp: at most one, from its start to its end.

#include "job/job.h"

#include <atomic>
#include <utility>

#include <torch_mesh/error.h>
#include <torch_mesh/mesh.h>

namespace torch_mesh {
namespace {

std::atomic<const Job*> current{nullptr};
// Those of one that has ended may begin another: meshes name its processes.
std::atomic<bool> was_in_a_job{false};

}  // namespace

void start_job(Job job) {
  TORCH_MESH_CHECK_VALUE(
      !current_job(),
      "initialized-twice",
      "start_job: this process is part of a job already.\n  now  process ",
      current_job()->process,
      " of ",
      current_job()->num_processes,
      "\nHint: end it first.");
  TORCH_MESH_CHECK_VALUE(
      was_in_a_job || job.num_processes == 1 || !any_mesh_was_made(),
      "initialized-late",
      "start_job: a mesh was made before this process became process ",
      job.process,
      " of ",
      job.num_processes,
      ".\nHint: call initialize() first of all.");
  TORCH_MESH_CHECK_VALUE(
      !was_in_a_job || job.process == this_process(),
      "initialized-late",
      "start_job: this process was process ",
      this_process(),
      " of an earlier job, and its meshes name it so.\nHint: give it the same "
      "process_id, or start it anew.");
  was_in_a_job = true;
  set_this_process(job.process);
  current = new Job(std::move(job));
}

void end_job() { delete current.exchange(nullptr); }

const Job* current_job() { return current.load(std::memory_order_acquire); }

Transport& transport_to(int process) {
  const Job* job = current_job();
  const bool is_there = job && process >= 0 && process < job->num_processes &&
                        job->transports[process];
  TORCH_MESH_CHECK_VALUE(
      is_there,
      "no-job",
      "Mesh: it has devices of process ",
      process,
      ", which this process cannot reach.\n  this is  process ",
      this_process(),
      job ? " of " + std::to_string(job->num_processes) : ", in no job",
      "\nHint: call initialize() in each process before a mesh is made.");
  return *job->transports[process];
}

}  // namespace torch_mesh

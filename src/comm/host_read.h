// host_read.h: a value that the host of each process reads.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torch_mesh/mesh.h>

namespace torch_mesh {

// What the program of each process is to see of a value that all of them have:
// the bits of the mesh's first process, where it is of at most 4 KiB. Throws
// [processes-differ] if one of them has done something else so far: no value of
// a program that went another way is seen.
//
// In one process, and on a mesh without axes, it is `value`.
// Requires: all processes of the mesh call it.
at::Tensor agreed(const Mesh& mesh, const at::Tensor& value);

// Compares what the processes of the mesh do: words of any length. Throws
// [processes-differ] with both. Nothing in one process.
void compare(const Mesh& mesh, const std::string& words);

// The same numbers of each device, as many of each: those that this process has
// of its own, and those of the others.
//
//   own     [devices]; those of others' devices are empty
//   result  [devices]
std::vector<std::vector<int64_t>> numbers_of_devices(
    const Mesh& mesh,
    const std::vector<std::vector<int64_t>>& own);

}  // namespace torch_mesh

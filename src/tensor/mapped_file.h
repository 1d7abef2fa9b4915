// mapped_file.h: memory that is a file's, as torch.load(mmap=True) gives.

#pragma once

#include <cstddef>

namespace torch_mesh {

// Whether the page at `address` is mapped from a file. False where the system
// does not say.
bool is_of_a_file(const void* address);

// Lets the system take back pages that were read, all inside of [begin, begin +
// num_bytes). Their contents stay: a page comes from the file when it is read
// again, one that was written is kept.
void give_back(const void* begin, size_t num_bytes);

}  // namespace torch_mesh

// mapped_file.cpp: what Linux tells of memory, and what it can be told.

#include "tensor/mapped_file.h"

#include <cstdint>

#ifdef __linux__
#include <cstdio>

#include <sys/mman.h>
#include <unistd.h>

namespace torch_mesh {

bool is_of_a_file(const void* address) {
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) {
    return false;
  }
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  unsigned long long begin = 0;
  unsigned long long end = 0;
  unsigned long long inode = 0;
  bool found = false;
  while (!found) {
    const int read =
        std::fscanf(maps, "%llx-%llx %*s %*x %*s %llu", &begin, &end, &inode);
    if (read != 3) {
      break;
    }
    found = begin <= wanted && wanted < end;
    for (int c = 0; c != '\n' && c != EOF;) {
      c = std::fgetc(maps);  // the rest of the line: the file's name
    }
  }
  std::fclose(maps);
  return found && inode != 0;
}

void give_back(const void* begin, size_t num_bytes) {
#ifdef MADV_PAGEOUT
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (address + page - 1) / page * page;
  const uintptr_t last = (address + num_bytes) / page * page;
  if (first < last) {
    // Advice: nothing depends on whether it is taken.
    madvise(reinterpret_cast<void*>(first), last - first, MADV_PAGEOUT);
  }
#endif
}

}  // namespace torch_mesh

#else

namespace torch_mesh {

bool is_of_a_file(const void* /*address*/) { return false; }

void give_back(const void* /*begin*/, size_t /*num_bytes*/) {}

}  // namespace torch_mesh

#endif

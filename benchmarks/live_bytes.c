/* Counts the bytes that a process holds from malloc, and their peak.
 *
 * Preloaded, it stands in front of glibc's malloc family: torch's CPU allocator
 * takes its memory from posix_memalign on whichever thread needs it, which a
 * per-thread profiler does not see. Bytes are what malloc_usable_size says.
 * Memory mapped by hand is not seen.
 */
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
extern void __libc_free(void*);

static atomic_llong live;
static atomic_llong peak;

static void add(long long bytes) {
  long long now = atomic_fetch_add(&live, bytes) + bytes;
  long long seen = atomic_load(&peak);
  while (now > seen && !atomic_compare_exchange_weak(&peak, &seen, now)) {
  }
}

static void* taken(void* memory) {
  if (memory) {
    add((long long)malloc_usable_size(memory));
  }
  return memory;
}

long long live_bytes(void) {
  return atomic_load(&live);
}

long long live_bytes_peak(void) {
  return atomic_load(&peak);
}

void live_bytes_reset_peak(void) {
  atomic_store(&peak, atomic_load(&live));
}

void* malloc(size_t size) {
  return taken(__libc_malloc(size));
}

void* calloc(size_t count, size_t size) {
  return taken(__libc_calloc(count, size));
}

void* realloc(void* memory, size_t size) {
  long long before = memory ? (long long)malloc_usable_size(memory) : 0;
  void* result = __libc_realloc(memory, size);
  if (result || size == 0) {
    add(-before);
    taken(result);
  }
  return result;
}

void* memalign(size_t alignment, size_t size) {
  return taken(__libc_memalign(alignment, size));
}

void* aligned_alloc(size_t alignment, size_t size) {
  return memalign(alignment, size);
}

int posix_memalign(void** out, size_t alignment, size_t size) {
  void* memory = memalign(alignment, size);
  if (!memory) {
    return ENOMEM;
  }
  *out = memory;
  return 0;
}

void free(void* memory) {
  if (memory) {
    add(-(long long)malloc_usable_size(memory));
    __libc_free(memory);
  }
}

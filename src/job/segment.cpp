// segment.cpp: files in /dev/shm, and sleeping on a word of them.

#include "job/segment.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>
#include <string_view>
#include <utility>

namespace torch_mesh {
namespace {

// Where shm_open looks, too; it needs a library of its own before glibc 2.34.
constexpr char kFolder[] = "/dev/shm/";
constexpr std::string_view kPrefix = "torch-mesh-";
constexpr size_t kRandomBytes = 16;
constexpr size_t kPage = 4096;

using Random = std::array<unsigned char, kRandomBytes>;

std::optional<Random> random_bits() {
  Random result;
  if (getrandom(result.data(), result.size(), 0) !=
      static_cast<ssize_t>(result.size())) {
    return std::nullopt;
  }
  return result;
}

std::string hex(const Random& bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  for (const unsigned char byte : bytes) {
    result += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return result;
}

// Names come from other processes: nothing but what `create` makes is opened.
bool is_name(const std::string& name) {
  return name.starts_with(kPrefix) &&
         name.size() == kPrefix.size() + 2 * kRandomBytes &&
         name.find_first_not_of("0123456789abcdef", kPrefix.size()) ==
             std::string::npos;
}

// A folder of another kind may be one that hosts share: its memory is not.
bool is_in_memory(int file) {
  struct statfs system;
  return fstatfs(file, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

bool is_ours_alone(int file) {
  struct stat status;
  return fstat(file, &status) == 0 && S_ISREG(status.st_mode) &&
         status.st_uid == geteuid() && (status.st_mode & 077) == 0;
}

bool has_size(int file, size_t size) {
  struct stat status;
  return fstat(file, &status) == 0 &&
         static_cast<uint64_t>(status.st_size) == size;
}

size_t rounded_up(size_t size) { return (size + kPage - 1) / kPage * kPage; }

// Without the limit's signal, which ends a process.
bool is_within_file_limit(size_t size) {
  struct rlimit limit;
  return getrlimit(RLIMIT_FSIZE, &limit) == 0 && size <= limit.rlim_cur;
}

// Blocks are given now or never: a page that cannot be had at its first access
// would end the process.
bool reserve_file(int file, size_t size) {
  if (!is_within_file_limit(size)) {
    return false;
  }
  int error;
  do {
    error = posix_fallocate(file, 0, static_cast<off_t>(size));
  } while (error == EINTR);
  return error == 0;
}

long futex(uint32_t& word, int op, uint32_t value, const timespec* most) {
  return syscall(SYS_futex, &word, op, value, most, nullptr, 0);
}

using Word = std::atomic_ref<uint32_t>;
static_assert(Word::is_always_lock_free);

}  // namespace

SegmentShape SegmentShape::within(size_t budget, size_t num_rings) {
  SegmentShape result{num_rings, kLargestRing};
  while (result.ring_bytes >= kLeastRing && result.num_bytes() > budget) {
    result.ring_bytes /= 2;
  }
  return result.is_possible() ? result : SegmentShape{};
}

bool SegmentShape::is_possible() const {
  return num_rings > 0 && std::has_single_bit(ring_bytes) &&
         ring_bytes >= kLeastRing && ring_bytes <= kLargestRing;
}

// The header and all positions come first.
size_t SegmentShape::offset_of_ring(size_t ring) const {
  return kPage + rounded_up(num_rings * sizeof(RingPositions)) +
         ring * ring_bytes;
}

// The first page; all bytes begin with 0.
struct Segment::Header {
  Random token;
  // Of the owner: a number that changes to wake it, and whether it sleeps.
  alignas(128) uint32_t doorbell;
  uint32_t is_asleep;
};

Segment::Segment(std::string name, int file, bool is_mine)
    : name_(std::move(name)), file_(file), is_linked_(is_mine), pid_(getpid()) {
  static_assert(sizeof(Header) <= kPage);
}

std::unique_ptr<Segment> Segment::create() {
  const std::optional<Random> name = random_bits();
  const std::optional<Random> token = random_bits();
  if (!name || !token) {
    return nullptr;
  }
  const std::string text = std::string(kPrefix) + hex(*name);
  const int file = ::open(
      (kFolder + text).c_str(),
      O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
      0600);
  if (file < 0) {
    return nullptr;
  }
  std::unique_ptr<Segment> result(new Segment(text, file, /*is_mine=*/true));
  if (!is_in_memory(file) || !reserve_file(file, kPage) ||
      !result->remap(kPage)) {
    return nullptr;
  }
  result->header().token = *token;
  result->token_ = hex(*token);
  return result;
}

std::unique_ptr<Segment> Segment::open(const std::string& name) {
  if (!is_name(name)) {
    return nullptr;
  }
  const int file =
      ::open((kFolder + name).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) {
    return nullptr;
  }
  std::unique_ptr<Segment> result(new Segment(name, file, /*is_mine=*/false));
  if (!is_in_memory(file) || !is_ours_alone(file) || !has_size(file, kPage) ||
      !result->remap(kPage)) {
    return nullptr;
  }
  result->token_ = hex(result->header().token);
  return result;
}

Segment::~Segment() {
  unlink();
  unmap();
  if (file_ >= 0) {
    close(file_);
  }
}

bool Segment::reserve(const SegmentShape& shape) {
  return shape.is_possible() && reserve_file(file_, shape.num_bytes());
}

bool Segment::map(const SegmentShape& shape) {
  if (!shape.is_possible() || !has_size(file_, shape.num_bytes()) ||
      !remap(shape.num_bytes())) {
    return false;
  }
  shape_ = shape;
  close(std::exchange(file_, -1));
  return true;
}

void Segment::unlink() {
  if (std::exchange(is_linked_, false) && getpid() == pid_) {
    ::unlink((kFolder + name_).c_str());
  }
}

bool Segment::remap(size_t size) {
  unmap();
  void* data =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
  if (data == MAP_FAILED) {
    return false;
  }
  mapping_ = {static_cast<std::byte*>(data), size};
  madvise(data, size, MADV_DONTFORK);
  return true;
}

void Segment::unmap() {
  const Mapping mapping = std::exchange(mapping_, {});
  if (mapping.data && getpid() == pid_) {
    munmap(mapping.data, mapping.size);
  }
}

Segment::Header& Segment::header() const {
  return *reinterpret_cast<Header*>(mapping_.data);
}

RingPositions& Segment::positions(size_t ring) const {
  return reinterpret_cast<RingPositions*>(mapping_.data + kPage)[ring];
}

std::span<std::byte> Segment::bytes(size_t ring) const {
  return {mapping_.data + shape_.offset_of_ring(ring), shape_.ring_bytes};
}

// As of positions (ring.cpp), loads and stores are sequentially consistent.

void Segment::announce_sleep() {
  doorbell_seen_ = Word(header().doorbell).load();
  Word(header().is_asleep).store(1);
}

bool Segment::sleep(std::chrono::milliseconds most) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(most);
  const timespec time{
      static_cast<time_t>(seconds.count()),
      static_cast<long>(std::chrono::nanoseconds(most - seconds).count())};
  const long result =
      futex(header().doorbell, FUTEX_WAIT, doorbell_seen_, &time);
  // EAGAIN: the doorbell has rung before.
  return result == 0 || errno == EAGAIN;
}

void Segment::end_sleep() { Word(header().is_asleep).store(0); }

void Segment::ring_doorbell() const {
  const Word is_asleep(header().is_asleep);
  // One call into the system for one sleep, however many ring.
  if (is_asleep.load() == 0 || is_asleep.exchange(0) == 0) {
    return;
  }
  Word(header().doorbell).fetch_add(1);
  futex(header().doorbell, FUTEX_WAKE, 1, nullptr);
}

}  // namespace torch_mesh

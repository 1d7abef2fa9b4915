// shared_memory_opening.cpp: processes find those that share memory with them.
//
// By texts in the store, in steps that all take, also who has no memory: each
// text is written before the others' are waited for.
//
//   present  all have come, so that files stand for a moment only
//   name     of the own segment, of one page
//   tokens   that stood in the segments of the others
//   rings    what the own segment has now, for those who told its token
//   mapped   whose rings are mapped; a pair shares memory if both say so

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

#include "job/shared_memory.h"
#include "job/shared_memory_peer.h"

namespace torch_mesh {
namespace {

// Texts of all processes to all processes.
class Board {
 public:
  Board(Store& store, int process, int num_processes, uint64_t job)
      : store_(store), process_(process), num_processes_(num_processes) {
    std::ostringstream folder;
    folder << "shared_memory/" << std::hex << job << "/";
    folder_ = folder.str();
  }

  // Leaves the own text, and returns those of all.
  std::vector<std::string> exchange(const char* step, const std::string& mine) {
    const std::string folder = folder_ + step + "/";
    auto key = [&](int process) { return folder + std::to_string(process); };
    store_.set(key(process_), mine);
    std::vector<std::optional<std::string>> found(num_processes_);
    found[process_] = mine;
    for (int process = 0; process < num_processes_; ++process) {
      if (!found[process]) {
        found[process] = store_.get(key(process), process);
        // Once one has come, most of the others have, too.
        look(found, key);
      }
    }
    std::vector<std::string> result;
    for (const std::optional<std::string>& text : found) {
      result.push_back(*text);
    }
    return result;
  }

 private:
  // Those that are there, of those that are not found yet.
  template <typename Key>
  void look(std::vector<std::optional<std::string>>& found, const Key& key)
      const {
    std::vector<int> missing;
    std::vector<std::string> keys;
    for (int process = 0; process < num_processes_; ++process) {
      if (!found[process]) {
        missing.push_back(process);
        keys.push_back(key(process));
      }
    }
    if (keys.empty()) {
      return;
    }
    const auto texts = store_.try_get(keys);
    for (size_t i = 0; i < missing.size(); ++i) {
      found[missing[i]] = texts[i];
    }
  }

  Store& store_;
  const int process_;
  const int num_processes_;
  std::string folder_;
};

// Words, one for each process. "-" stands for none.
constexpr char kNone[] = "-";

std::vector<std::string> words_of(const std::string& text, size_t num) {
  std::istringstream stream(text);
  std::vector<std::string> result(num);
  for (std::string& word : result) {
    stream >> word;
  }
  return result;
}

std::string joined(const std::vector<std::string>& words) {
  std::string result;
  for (const std::string& word : words) {
    result += (result.empty() ? "" : " ") + word;
  }
  return result;
}

// "1101": a flag for each process.
std::string flags(size_t num, const std::function<bool(size_t)>& is_set) {
  std::string result(num, '0');
  for (size_t i = 0; i < num; ++i) {
    result[i] = is_set(i) ? '1' : '0';
  }
  return result;
}

bool flag(const std::string& text, size_t i) {
  return i < text.size() && text[i] == '1';
}

// The rings of a segment, as its owner tells the others: "65536 1101", the size
// of each and for whom there is one. They stand in the order of the processes.
struct Rings {
  SegmentShape shape;
  std::string is_for;

  std::string text() const {
    return std::to_string(shape.ring_bytes) + " " + is_for;
  }
  static Rings parse(const std::string& text, size_t num_processes) {
    const std::vector<std::string> words = words_of(text, 2);
    Rings result;
    const std::string& size = words[0];
    std::from_chars(
        size.data(), size.data() + size.size(), result.shape.ring_bytes);
    result.is_for = words[1];
    result.is_for.resize(num_processes, '0');
    result.shape.num_rings = std::ranges::count(result.is_for, '1');
    return result;
  }
  size_t index_of(int process) const {
    return std::count(is_for.begin(), is_for.begin() + process, '1');
  }
};

}  // namespace

std::unique_ptr<SharedMemory> SharedMemory::open(
    Store& store,
    int process,
    int num_processes,
    uint64_t job,
    size_t budget) {
  std::unique_ptr<SharedMemory> result(
      new SharedMemory(process, num_processes, job));
  if (num_processes > 1) {
    result->connect(store, budget);
  }
  return result;
}

void SharedMemory::connect(Store& store, size_t budget) {
  const size_t num = peers_.size();
  Board board(store, process_, static_cast<int>(num), job_);
  std::vector<std::unique_ptr<Segment>> theirs(num);
  const auto mine_index = static_cast<size_t>(process_);

  board.exchange("present", "");
  mine_ = Segment::create();
  const std::vector<std::string> names =
      board.exchange("name", mine_ ? mine_->name() : kNone);
  std::vector<std::string> told(num, kNone);
  for (size_t i = 0; i < num; ++i) {
    if (mine_ && i != mine_index) {
      theirs[i] = Segment::open(names[i]);
    }
    if (theirs[i]) {
      told[i] = theirs[i]->token();
    }
  }
  const std::vector<std::string> tokens =
      board.exchange("tokens", joined(told));
  // All have opened what they can: names are of no more use.
  if (mine_) {
    mine_->unlink();
  }

  Rings rings;
  rings.is_for = flags(num, [&](size_t i) {
    return theirs[i] && words_of(tokens[i], num)[mine_index] == mine_->token();
  });
  const size_t num_rings = std::ranges::count(rings.is_for, '1');
  rings.shape = SegmentShape::within(budget / (num_rings + 1), num_rings);
  if (!mine_ || !mine_->reserve(rings.shape) || !mine_->map(rings.shape)) {
    rings = {{}, std::string(num, '0')};
  }
  const std::vector<std::string> rings_of =
      board.exchange("rings", rings.text());

  std::vector<size_t> ring_for_me(num);
  const std::string mapped = flags(num, [&](size_t i) {
    const Rings other = Rings::parse(rings_of[i], num);
    ring_for_me[i] = other.index_of(process_);
    return flag(rings.is_for, i) && flag(other.is_for, mine_index) &&
           theirs[i]->map(other.shape);
  });
  const std::vector<std::string> mapped_by = board.exchange("mapped", mapped);
  for (size_t i = 0; i < num; ++i) {
    if (flag(mapped, i) && flag(mapped_by[i], mine_index)) {
      peers_[i] = std::make_unique<SharedMemoryPeer>(
          static_cast<int>(i),
          std::move(theirs[i]),
          ring_for_me[i],
          *mine_,
          rings.index_of(static_cast<int>(i)));
    }
  }
  if (std::ranges::none_of(peers_, [](const auto& peer) { return !!peer; })) {
    mine_.reset();
  }
}

}  // namespace torch_mesh

// pieces.cpp: cuts a sequence at each `.*`, and finds its pieces in order.

#include "layout_map/pieces.h"

#include <algorithm>
#include <utility>

namespace torch_mesh {
namespace {

// Beside a `.*`, which takes what is left over, the least repeats do: then a
// piece that begins further left never ends further right.
void shorten(std::vector<Item>& items, bool at_front) {
  while (!items.empty()) {
    Item& item = at_front ? items.front() : items.back();
    if (item.least > 0) {
      item.most = item.least;
      return;
    }
    items.erase(at_front ? items.begin() : items.end() - 1);
  }
}

// Whether each repeat ends where its set does: nothing that may follow it, up
// to the first place that must be there, is in the set.
bool ends_are_plain(const std::vector<Item>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].least == items[i].most) {
      continue;
    }
    for (size_t next = i + 1; next < items.size(); ++next) {
      if ((items[i].set & items[next].set).any()) {
        return false;
      }
      if (items[next].least > 0) {
        break;
      }
    }
  }
  return true;
}

}  // namespace

char Item::character() const {
  int c = kFirstPlain;
  while (!set[static_cast<size_t>(c)]) {
    ++c;
  }
  return static_cast<char>(c);
}

std::optional<Pieces> Pieces::of(const std::vector<Item>& items) {
  std::vector<std::vector<Item>> sequences(1);
  for (const Item& item : items) {
    if (item.set.none()) {
      return {};
    }
    if (item.is_anything()) {
      sequences.emplace_back();
    } else {
      sequences.back().push_back(item);
    }
  }
  Pieces result;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (i > 0) {
      shorten(sequences[i], /*at_front=*/true);
    }
    if (i + 1 < sequences.size()) {
      shorten(sequences[i], /*at_front=*/false);
    }
    if (!ends_are_plain(sequences[i])) {
      return {};
    }
    result.pieces_.push_back(piece_of(sequences[i]));
  }
  return result;
}

Pieces::Piece Pieces::piece_of(const std::vector<Item>& items) {
  Piece piece(1);
  for (const Item& item : items) {
    if (item.is_char()) {
      if (piece.back().most > 0) {
        piece.emplace_back();
      }
      piece.back().literal += item.character();
    } else if (item.most > 0) {
      if (piece.back().most > 0) {
        piece.emplace_back();
      }
      piece.back().set = item.set;
      piece.back().least = item.least;
      piece.back().most = item.most;
    }
  }
  return piece;
}

// Where a piece that begins at `start` ends; npos if it does not begin there.
size_t Pieces::end_of(const Piece& piece, std::string_view text, size_t start) {
  size_t at = start;
  for (const Step& step : piece) {
    if (!text.substr(at).starts_with(step.literal)) {
      return text.npos;
    }
    at += step.literal.size();
    uint32_t count = 0;
    while (count < step.most && at < text.size() &&
           step.set[static_cast<unsigned char>(text[at])]) {
      ++count;
      ++at;
    }
    if (count < step.least) {
      return text.npos;
    }
  }
  return at;
}

// Each piece at the first place after the one before, the last at the end.
bool Pieces::matches_all_of(std::string_view text) const {
  size_t at = end_of(pieces_.front(), text, 0);
  if (pieces_.size() == 1 || at == text.npos) {
    return at == text.size();
  }
  for (size_t i = 1; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    const std::string& literal = piece.front().literal;
    const bool is_last = i + 1 == pieces_.size();
    if (is_last && piece.size() == 1 && piece.front().most == 0) {
      return text.substr(at).ends_with(literal);
    }
    size_t end = text.npos;
    for (size_t start = text.find(literal, at); start != text.npos;
         start = text.find(literal, start + 1)) {
      end = end_of(piece, text, start);
      if (is_last ? end == text.size() : end != text.npos) {
        break;
      }
      end = text.npos;
    }
    if (end == text.npos) {
      return false;
    }
    at = end;
  }
  return true;
}

}  // namespace torch_mesh

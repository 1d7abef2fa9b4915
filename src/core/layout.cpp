// layout.cpp: layouts are interned, so a handle is one pointer, and what a
// layout is asked on each op (masks, lanes, id) is there beforehand.

#include <torch_mesh/layout.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <unordered_map>

#include <torch_mesh/error.h>

namespace torch_mesh {

struct Layout::Data {
  Mesh mesh;
  std::vector<Placement> placements;
  AxisMask sharded = 0;
  AxisMask partial = 0;
  const Lanes* lanes = nullptr;
  uint32_t id = 0;
  std::string text;

  static const Data* intern(
      const Mesh& mesh,
      std::span<const Placement> placements);
  static std::unique_ptr<Data> make(
      const Mesh& mesh,
      std::span<const Placement> placements);
};

namespace {

std::string placements_text(std::span<const Placement> placements) {
  std::string text;
  for (const Placement& placement : placements) {
    text += (text.empty() ? "" : ", ") + placement.str();
  }
  return "(" + text + ")";
}

std::string mesh_text(const Mesh& mesh) {
  return mesh.num_axes() == 0 ? "without axes" : mesh.str();
}

size_t hash_of(const Mesh& mesh, std::span<const Placement> placements) {
  size_t hash = std::hash<Mesh>()(mesh);
  auto mix = [&hash](size_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  };
  for (const Placement& placement : placements) {
    mix(static_cast<size_t>(placement.kind) << 32 ^
        static_cast<uint32_t>(placement.dim));
    mix(static_cast<size_t>(placement.block));
  }
  return hash;
}

}  // namespace

std::unique_ptr<Layout::Data> Layout::Data::make(
    const Mesh& mesh,
    std::span<const Placement> placements) {
  auto data = std::make_unique<Data>();
  data->mesh = mesh;
  data->placements.assign(placements.begin(), placements.end());
  for (size_t a = 0; a < placements.size(); ++a) {
    data->sharded |= AxisMask{placements[a].is_shard()} << a;
    data->partial |= AxisMask{placements[a].is_partial()} << a;
  }
  data->lanes = &mesh.lanes(data->sharded);
  data->text = placements_text(placements);
  return data;
}

const Layout::Data* Layout::Data::intern(
    const Mesh& mesh,
    std::span<const Placement> placements) {
  // Guards `table`; a leaf in the lock order. Handles outlive static
  // destruction, so neither is ever destroyed.
  static auto& mutex = *new std::mutex;
  static auto& table = *new std::unordered_multimap<size_t, const Data*>;
  const size_t hash = hash_of(mesh, placements);
  std::lock_guard lock(mutex);
  auto [first, last] = table.equal_range(hash);
  for (auto entry = first; entry != last; ++entry) {
    const Data& data = *entry->second;
    if (data.mesh == mesh && std::ranges::equal(data.placements, placements)) {
      return &data;
    }
  }
  std::unique_ptr<Data> data = make(mesh, placements);
  data->id = static_cast<uint32_t>(table.size());
  table.emplace(hash, data.get());
  return data.release();
}

Layout::Layout() {
  static const Data* const none = Data::intern(Mesh(), {});
  data_ = none;
}

Layout::Layout(const Mesh& mesh, std::span<const Placement> placements) {
  TORCH_MESH_CHECK_VALUE(
      placements.size() == static_cast<size_t>(mesh.num_axes()),
      "layout-axes",
      "Layout: there are ",
      placements.size(),
      " placements, and the mesh has ",
      mesh.num_axes(),
      " axes.\n  layout  ",
      placements_text(placements),
      "\n  mesh    ",
      mesh_text(mesh),
      "\nHint: give one placement for each axis of the mesh; R leaves an axis "
      "alone.");
  data_ = Data::intern(mesh, placements);
}

Layout Layout::replicated(const Mesh& mesh) {
  // Asked for at every number that a program makes, of the one mesh it has.
  thread_local Layout last;
  if (last.mesh() != mesh) {
    const std::vector<Placement> placements(mesh.num_axes());
    last = Layout(mesh, placements);
  }
  return last;
}

// --- reading text ------------------------------------------------------------

namespace {

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) {
    return {};
  }
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

// What stands between the commas of `text`; nothing for an empty text.
std::vector<std::string_view> items_of(std::string_view text) {
  std::vector<std::string_view> items;
  if (trimmed(text).empty()) {
    return items;
  }
  while (true) {
    const size_t comma = text.find(',');
    items.push_back(trimmed(text.substr(0, comma)));
    if (comma == std::string_view::npos) {
      return items;
    }
    text.remove_prefix(comma + 1);
  }
}

// "data: S0, model: R"
std::vector<Placement> parse_by_name(
    const Mesh& mesh,
    std::string_view inside) {
  std::vector<Placement> placements(mesh.num_axes());
  AxisMask seen = 0;
  for (std::string_view item : items_of(inside)) {
    const size_t colon = item.find(':');
    TORCH_MESH_CHECK_VALUE(
        colon != std::string_view::npos,
        "layout-text",
        "Layout: \"",
        item,
        "\" is no axis with its placement.\n"
        "Hint: write the axis, a colon and a placement, as in {data: S0}.");
    const int axis = mesh.axis_index(trimmed(item.substr(0, colon)));
    TORCH_MESH_CHECK_VALUE(
        !(seen >> axis & 1),
        "layout-text",
        "Layout: axis \"",
        mesh.axis(axis).name,
        "\" occurs twice in \"{",
        inside,
        "}\".\nHint: give each axis one placement.");
    seen |= AxisMask{1} << axis;
    placements[axis] = Placement::parse(trimmed(item.substr(colon + 1)));
  }
  return placements;
}

}  // namespace

Layout Layout::parse(const Mesh& mesh, std::string_view text) {
  const std::string_view whole = trimmed(text);
  const bool is_list =
      whole.size() >= 2 && whole.front() == '(' && whole.back() == ')';
  const bool is_by_name =
      whole.size() >= 2 && whole.front() == '{' && whole.back() == '}';
  TORCH_MESH_CHECK_VALUE(
      is_list || is_by_name,
      "layout-text",
      "Layout: \"",
      text,
      "\" is no layout.\n"
      "Hint: write one placement for each axis, as in (S0, R), or name the "
      "axes, as in {data: S0}.");
  const std::string_view inside = whole.substr(1, whole.size() - 2);
  if (is_by_name) {
    return Layout(mesh, parse_by_name(mesh, inside));
  }
  std::vector<Placement> placements;
  for (std::string_view item : items_of(inside)) {
    placements.push_back(Placement::parse(item));
  }
  return Layout(mesh, placements);
}

// --- the handle --------------------------------------------------------------

const Mesh& Layout::mesh() const { return data_->mesh; }

const std::vector<Placement>& Layout::placements() const {
  return data_->placements;
}

Layout Layout::with(int axis, Placement placement) const {
  if (data_->placements[axis] == placement) {
    return *this;
  }
  std::vector<Placement> placements = data_->placements;
  placements[axis] = placement;
  return Layout(Data::intern(data_->mesh, placements));
}

Layout Layout::with_sums_reduced(AxisMask axes) const {
  axes &= partial_axes();
  if (axes == 0) {
    return *this;
  }
  std::vector<Placement> placements = data_->placements;
  for (size_t axis = 0; axis < placements.size(); ++axis) {
    if (axes >> axis & 1) {
      placements[axis] = Placement::replicate();
    }
  }
  return Layout(Data::intern(data_->mesh, placements));
}

AxisMask Layout::sharded_axes() const { return data_->sharded; }

AxisMask Layout::partial_axes() const { return data_->partial; }

bool Layout::shards_dim(int64_t dim) const {
  return std::ranges::any_of(
      data_->placements,
      [dim](const Placement& placement) { return placement.is_shard(dim); });
}

const Lanes& Layout::lanes() const { return *data_->lanes; }

uint32_t Layout::id() const { return data_->id; }

std::string Layout::str() const { return data_->text; }

}  // namespace torch_mesh

// mesh.cpp: meshes are interned, so a handle is one pointer and equality is
// that of pointers.

#include <torch_mesh/mesh.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include <torch_mesh/error.h>

namespace torch_mesh {

// --- devices -----------------------------------------------------------------

namespace {

constexpr std::array<std::pair<std::string_view, DeviceKind>, 5> kKindNames = {{
    {"cpu", DeviceKind::kCpu},
    {"gpu", DeviceKind::kGpu},
    {"tpu", DeviceKind::kTpu},
    {"null", DeviceKind::kNull},
    {"cuda", DeviceKind::kGpu},
}};

bool parse_index(std::string_view text, int32_t& index) {
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, index);
  return error == std::errc() && stop == end && index >= 0 && text[0] != '-';
}

}  // namespace

Device Device::parse(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  Device device;
  bool is_known = false;
  for (const auto& [name, value] : kKindNames) {
    if (name == kind) {
      device.kind = value;
      is_known = true;
    }
  }
  if (is_known && colon != std::string_view::npos) {
    const std::string_view numbers = text.substr(colon + 1);
    const size_t at = numbers.find('@');
    is_known = parse_index(numbers.substr(0, at), device.index) &&
               (at == std::string_view::npos ||
                parse_index(numbers.substr(at + 1), device.process));
  }
  TORCH_MESH_CHECK_VALUE(
      is_known,
      "device-name",
      "Device: \"",
      text,
      "\" names no device.\n"
      "Hint: write a kind (cpu, gpu, cuda, tpu) and a number, as in "
      "\"cpu:1\".");
  return device;
}

std::string Device::str() const {
  std::string_view kind = kKindNames[static_cast<size_t>(this->kind)].first;
  return std::string(kind) + ":" + std::to_string(index) +
         (process == 0 ? "" : "@" + std::to_string(process));
}

bool Device::is_mine() const {
  return kind == DeviceKind::kNull ? index == 0 : process == this_process();
}

namespace {

std::atomic<bool> any_has_axes{false};
std::atomic<int> number_of_this_process{0};

}  // namespace

int this_process() {
  return number_of_this_process.load(std::memory_order_relaxed);
}

void set_this_process(int process) { number_of_this_process = process; }

bool any_mesh_was_made() { return any_has_axes; }

// --- memories ----------------------------------------------------------------

namespace {

// What TORCH_MESH_CPU_MEMORIES says.
std::optional<bool> are_separate_by_environment() {
  const char* said = std::getenv("TORCH_MESH_CPU_MEMORIES");
  if (!said || !*said) {
    return std::nullopt;
  }
  const std::string_view text = said;
  TORCH_MESH_CHECK_VALUE(
      text == "separate" || text == "shared",
      "cpu-memories",
      "TORCH_MESH_CPU_MEMORIES=\"",
      text,
      "\" is neither \"separate\" nor \"shared\".\nHint: unset it, and the CPU "
      "devices of a process share its memory, unless a mesh spans several "
      "processes.");
  return text == "separate";
}

struct CpuMemories {
  std::mutex mutex;  // guards all that follows; a leaf of the lock order
  std::optional<bool> are_separate;
  std::vector<int> of_device;  // those beyond share the first one's
};

CpuMemories& cpu_memories() {
  static auto& memories = *new CpuMemories;
  return memories;
}

// Numbers of different kinds of device do not meet.
int memory_of(const Device& device, bool are_separate) {
  const int first =
      (static_cast<int>(device.kind) << 28) + (device.process << 14);
  if (device.kind != DeviceKind::kCpu || are_separate) {
    return first + device.index;
  }
  CpuMemories& memories = cpu_memories();
  std::lock_guard lock(memories.mutex);
  const auto index = static_cast<size_t>(device.index);
  return index < memories.of_device.size() ? first + memories.of_device[index]
                                           : first;
}

bool are_of_processes(const std::vector<Device>& devices) {
  return std::ranges::any_of(devices, [&](const Device& device) {
    return device.process != devices[0].process;
  });
}

// What devices hold that share a memory is added up before anything else is
// done with it: its bits depend on who shares. So over several processes nobody
// does, and 2 processes of 2 devices yield what 4 of one do.
bool are_separate(const std::vector<Device>& devices) {
  return cpu_memories_are_separate().value_or(are_of_processes(devices));
}

}  // namespace

std::optional<bool> cpu_memories_are_separate() {
  static const std::optional<bool> by_environment =
      are_separate_by_environment();
  CpuMemories& memories = cpu_memories();
  std::lock_guard lock(memories.mutex);
  return memories.are_separate ? memories.are_separate : by_environment;
}

void separate_cpu_memories(std::optional<bool> separate) {
  std::lock_guard lock(cpu_memories().mutex);
  cpu_memories().are_separate = separate;
}

void set_memories_for_testing(std::vector<int> memories) {
  std::lock_guard lock(cpu_memories().mutex);
  cpu_memories().of_device = std::move(memories);
}

// --- the interned object -----------------------------------------------------

struct Mesh::Data {
  std::vector<Axis> axes;
  std::vector<Device> devices;
  std::vector<int> memories;     // [devices]
  std::vector<int64_t> strides;  // [axes] devices between neighbours
  std::string text;
  bool one_memory = true;
  bool is_all_mine = true;
  AxisMask between_processes = 0;
  // One slot for each mask, filled at the first use of the mask.
  std::unique_ptr<std::atomic<const Lanes*>[]> lanes;

  static const Data* intern(
      std::vector<Axis> axes,
      std::vector<Device> devices);
  const Lanes* make_lanes(AxisMask sharded) const;
  bool is_mine(int device) const {
    return is_all_mine || devices[device].is_mine();
  }
};

namespace {

std::string axes_text(const std::vector<Mesh::Axis>& axes) {
  std::string text;
  for (const Mesh::Axis& axis : axes) {
    text +=
        (text.empty() ? "" : " ") + axis.name + "=" + std::to_string(axis.size);
  }
  return text;
}

bool is_axis_name(const std::string& name) {
  auto is_good = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
  };
  return !name.empty() && std::all_of(name.begin(), name.end(), is_good);
}

// Number of devices.
int check_axes(const std::vector<Mesh::Axis>& axes) {
  TORCH_MESH_CHECK_VALUE(
      axes.size() <= static_cast<size_t>(kMaxAxes),
      "mesh-axes",
      "Mesh: there are ",
      axes.size(),
      " axes, and a mesh has at most ",
      kMaxAxes,
      ".\nHint: merge axes that are always used together.");
  std::set<std::string> names;
  int64_t size = 1;
  for (const Mesh::Axis& axis : axes) {
    TORCH_MESH_CHECK_VALUE(
        is_axis_name(axis.name),
        "mesh-axes",
        "Mesh: \"",
        axis.name,
        "\" does not do as the name of an axis.\n"
        "Hint: use letters, digits, \"_\", \"-\" and \".\".");
    TORCH_MESH_CHECK_VALUE(
        names.insert(axis.name).second,
        "mesh-axes",
        "Mesh: two axes have the name \"",
        axis.name,
        "\".\n  mesh    ",
        axes_text(axes),
        "\nHint: give each axis a name of its own.");
    TORCH_MESH_CHECK_VALUE(
        axis.size >= 1,
        "mesh-axes",
        "Mesh: axis \"",
        axis.name,
        "\" has size ",
        axis.size,
        ", and the least is 1.\nHint: leave the axis out, or give it size 1.");
    TORCH_MESH_CHECK_VALUE(
        axis.size <= kMaxDevices / size,
        "mesh-axes",
        "Mesh: the sizes call for more devices than ",
        kMaxDevices,
        ", the most a mesh has.\n  mesh    ",
        axes_text(axes),
        "\nHint: make an axis smaller.");
    size *= axis.size;
  }
  return static_cast<int>(size);
}

void check_devices(
    const std::vector<Mesh::Axis>& axes,
    const std::vector<Device>& devices,
    int size) {
  TORCH_MESH_CHECK_VALUE(
      devices.size() == static_cast<size_t>(size),
      "mesh-devices",
      "Mesh: the sizes call for ",
      size,
      " devices, and ",
      devices.size(),
      " are given.\n  mesh    ",
      axes_text(axes),
      "\nHint: give as many devices as the product of the sizes, or none.");
  std::set<std::string> seen;
  for (const Device& device : devices) {
    TORCH_MESH_CHECK_VALUE(
        (device.kind == DeviceKind::kNull) ==
                (devices[0].kind == DeviceKind::kNull) &&
            (device.kind != DeviceKind::kNull || seen.size() != 0 ||
             device.index == 0),
        "mesh-devices",
        "Mesh: a mesh of null devices has no others, and begins with null:0."
        "\n  mesh    ",
        axes_text(axes),
        "\nHint: Mesh(axes, devices=\"null\").");
    TORCH_MESH_CHECK_VALUE(
        seen.insert(device.str()).second,
        "mesh-devices",
        "Mesh: device ",
        device.str(),
        " is given twice.\n  mesh    ",
        axes_text(axes),
        "\nHint: give each place of the mesh a device of its own.");
  }
}

// The first device that shares a memory otherwise than axis by axis; -1: all
// follow (see mesh.h). A sum over two axes is formed along one after the other,
// with a part for each memory, and would else miss a part or count it twice.
//
//   differs_along_axis  why that one does not
int find_unfollowing(
    const std::vector<Mesh::Axis>& axes,
    const std::vector<int64_t>& strides,
    const std::vector<int>& memories,
    bool& differs_along_axis) {
  std::map<int, size_t> first_of_memory;
  for (size_t device = 0; device < memories.size(); ++device) {
    // The device whose coordinates are the first ones that share a memory with
    // this one's, each axis by itself.
    size_t first = 0;
    for (size_t a = 0; a < axes.size(); ++a) {
      const auto stride = static_cast<size_t>(strides[a]);
      const size_t own = device / stride % static_cast<size_t>(axes[a].size);
      size_t least = 0;
      while (memories[least * stride] != memories[own * stride]) {
        ++least;
      }
      first += least * stride;
    }
    const size_t same =
        first_of_memory.try_emplace(memories[device], first).first->second;
    if (memories[device] != memories[first] || same != first) {
      differs_along_axis = same == first;
      return static_cast<int>(device);
    }
  }
  return -1;
}

// Makes them follow axis by axis where processes of a job have other numbers of
// devices than the axes would have: each device counts as a memory then. Throws
// [mesh-devices] in one process.
void check_memories(
    const std::vector<Mesh::Axis>& axes,
    const std::vector<int64_t>& strides,
    const std::vector<Device>& devices,
    std::vector<int>& memories) {
  bool differs_along_axis = false;
  const int device =
      find_unfollowing(axes, strides, memories, differs_along_axis);
  if (device < 0) {
    return;
  }
  if (are_of_processes(devices)) {
    std::iota(memories.begin(), memories.end(), 0);
    return;
  }
  std::string of_devices;
  for (size_t i = 0; i < devices.size(); ++i) {
    const size_t number = static_cast<size_t>(
        std::find(memories.begin(), memories.end(), memories[i]) -
        memories.begin());
    of_devices += (i == 0 ? "" : " ") + std::to_string(number);
  }
  detail::raise(
      ErrorKind::kValue,
      "mesh-devices",
      "Mesh: which devices share a memory does not follow axis by axis: ",
      differs_along_axis ? "it differs along an axis for "
                         : "coordinates on several axes decide it for ",
      devices[device].str(),
      ".\n  mesh      ",
      axes_text(axes),
      "\n  memories  ",
      of_devices,
      "  (the first device of each)\n"
      "Hint: order the devices so that moving along an axis leaves a memory "
      "at every place or at none, as 0 0 2 2 does on two rows of two.");
}

}  // namespace

const Mesh::Data* Mesh::Data::intern(
    std::vector<Axis> axes,
    std::vector<Device> devices) {
  auto data = std::make_unique<Data>();
  data->text = axes_text(axes);
  const bool separate = are_separate(devices);
  std::string key = data->text + "|";
  for (const Device& device : devices) {
    data->memories.push_back(memory_of(device, separate));
    key += device.str() + "@" + std::to_string(data->memories.back()) + " ";
  }
  data->strides.resize(axes.size());
  int64_t stride = 1;
  for (size_t a = axes.size(); a-- > 0;) {
    data->strides[a] = stride;
    stride *= axes[a].size;
  }
  check_memories(axes, data->strides, devices, data->memories);
  data->one_memory = std::all_of(
      data->memories.begin(), data->memories.end(), [&](int memory) {
        return memory == data->memories[0];
      });
  // The mesh without axes is every process's own.
  data->is_all_mine =
      axes.empty() || std::ranges::all_of(devices, &Device::is_mine);
  for (size_t a = 0; a < axes.size(); ++a) {
    const auto stride = static_cast<size_t>(data->strides[a]);
    for (size_t i = 0; i + stride < devices.size(); ++i) {
      const bool is_last = i / stride % static_cast<size_t>(axes[a].size) + 1 ==
                           static_cast<size_t>(axes[a].size);
      if (!is_last && devices[i].process != devices[i + stride].process) {
        data->between_processes |= AxisMask{1} << a;
      }
    }
  }
  data->lanes.reset(new std::atomic<const Lanes*>[size_t{1} << axes.size()]());
  data->axes = std::move(axes);
  data->devices = std::move(devices);

  // Guards `table`; a leaf in the lock order. Handles outlive static
  // destruction, so neither is ever destroyed.
  static auto& mutex = *new std::mutex;
  static auto& table = *new std::unordered_map<std::string, const Data*>;
  std::lock_guard lock(mutex);
  any_has_axes = any_has_axes || !data->axes.empty();
  auto [entry, is_new] = table.try_emplace(std::move(key), data.get());
  if (is_new) {
    data.release();
  }
  return entry->second;
}

const Lanes* Mesh::Data::make_lanes(AxisMask sharded) const {
  auto result = std::make_unique<Lanes>();
  result->num = 0;
  std::map<std::pair<int, int64_t>, int> lane_at;
  for (int device = 0; device < static_cast<int>(devices.size()); ++device) {
    // The place among the sharded axes: the device with all others at 0.
    int64_t place = 0;
    for (size_t a = 0; a < axes.size(); ++a) {
      if (sharded >> a & 1) {
        place += device / strides[a] % axes[a].size * strides[a];
      }
    }
    auto [entry, is_new] =
        lane_at.try_emplace({memories[device], place}, result->num);
    if (is_new) {
      result->is_mine_.push_back(is_mine(device));
      if (is_mine(device)) {
        result->mine.push_back(result->num);
      }
      ++result->num;
      result->first_device.push_back(device);
    }
    result->lane_of_device.push_back(entry->second);
  }
  return result.release();
}

// --- the handle --------------------------------------------------------------

Mesh::Mesh() {
  static const Data* const none = Data::intern({}, {Device()});
  data_ = none;
}

Mesh::Mesh(std::vector<Axis> axes, std::vector<Device> devices) {
  const int size = check_axes(axes);
  if (devices.empty()) {
    for (int32_t i = 0; i < size; ++i) {
      devices.push_back({DeviceKind::kCpu, i, this_process()});
    }
  }
  check_devices(axes, devices, size);
  data_ = Data::intern(std::move(axes), std::move(devices));
}

int Mesh::num_axes() const { return static_cast<int>(data_->axes.size()); }

const Mesh::Axis& Mesh::axis(int index) const { return data_->axes[index]; }

namespace {

// Insertions, deletions and replacements that make `a` of `b`.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

[[noreturn]] void raise_unknown_axis(
    const std::vector<Mesh::Axis>& axes,
    std::string_view name) {
  auto nearest = std::min_element(
      axes.begin(), axes.end(), [&](const auto& a, const auto& b) {
        return edit_distance(a.name, name) < edit_distance(b.name, name);
      });
  detail::raise(
      ErrorKind::kValue,
      "unknown-axis",
      "Mesh: the mesh has no axis \"",
      name,
      "\".\n  mesh    ",
      axes.empty() ? "without axes" : axes_text(axes),
      "\nHint: ",
      axes.empty() ? "make a mesh with that axis."
                   : "did you mean \"" + nearest->name + "\"?");
}

}  // namespace

int Mesh::axis_index(std::string_view name) const {
  for (size_t a = 0; a < data_->axes.size(); ++a) {
    if (data_->axes[a].name == name) {
      return static_cast<int>(a);
    }
  }
  raise_unknown_axis(data_->axes, name);
}

int Mesh::size() const { return static_cast<int>(data_->devices.size()); }

const std::vector<Device>& Mesh::devices() const { return data_->devices; }

int64_t Mesh::coordinate(int device, int axis) const {
  return device / data_->strides[axis] % data_->axes[axis].size;
}

int Mesh::neighbour(int device, int axis, int64_t coordinate) const {
  return static_cast<int>(
      device +
      (coordinate - this->coordinate(device, axis)) * data_->strides[axis]);
}

bool Mesh::is_between_processes(int axis) const {
  return data_->between_processes >> axis & 1;
}

bool Mesh::sums_last_axis_first() const {
  return num_axes() > 1 && data_->between_processes != 0;
}

bool Mesh::is_null() const { return devices()[0].kind == DeviceKind::kNull; }

bool Mesh::is_mine(int device) const { return data_->is_mine(device); }

bool Mesh::is_all_mine() const { return data_->is_all_mine; }

int Mesh::memory(int device) const { return data_->memories[device]; }

const Lanes& Mesh::lanes(AxisMask sharded) const {
  TORCH_MESH_ASSERT(
      sharded >> data_->axes.size() == 0,
      "lanes: the mask ",
      sharded,
      " has an axis that the mesh does not have.");
  std::atomic<const Lanes*>& slot = data_->lanes[sharded];
  const Lanes* lanes = slot.load(std::memory_order_acquire);
  if (lanes == nullptr) [[unlikely]] {
    const Lanes* made = data_->make_lanes(sharded);
    if (slot.compare_exchange_strong(lanes, made, std::memory_order_acq_rel)) {
      lanes = made;
    } else {
      delete made;
    }
  }
  return *lanes;
}

bool Mesh::one_memory() const { return data_->one_memory; }

std::string Mesh::str() const { return data_->text; }

}  // namespace torch_mesh

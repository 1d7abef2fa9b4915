// mesh.h: devices arranged along named axes.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace torch_mesh {

// Of a mesh of kNull nobody has more than the first device: it shows what would
// be planned, counted and held on it. Nothing moves, and values are of no use.
enum class DeviceKind : uint8_t { kCpu, kGpu, kTpu, kNull };

// A place for shards. `cpu:3` is the fourth virtual device of a process's CPU;
// `gpu:0` (torch's `cuda:0`) a physical one. `cpu:3@1` is that of process 1.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int32_t index = 0;
  int32_t process = 0;

  // Parses "cpu:1", "gpu:0", "cuda:0", "cpu", "cpu:1@2". Throws [device-name].
  static Device parse(std::string_view text);
  std::string str() const;
  // Whether this process holds its shards.
  bool is_mine() const;
  bool operator==(const Device&) const = default;
};

// One bit for each mesh axis; bit i is axis i.
using AxisMask = uint32_t;
inline constexpr int kMaxAxes = 8;
inline constexpr int kMaxDevices = 1024;

// Which devices hold one physical value when a tensor is sharded over `axes`.
//
// Devices that share a memory and stand at the same coordinates of the sharded
// axes need one copy between them: they share a *lane*. With all devices in one
// memory a replicated tensor has one lane, however many devices there are.
struct Lanes {
  int num = 1;
  std::vector<int> first_device;    // [num]      lowest device of each lane
  std::vector<int> lane_of_device;  // [devices]
  // Those of which this process holds the shard, in order. All other members
  // are the same in every process, so that all plan alike.
  std::vector<int> mine;
  bool is_mine(int lane) const { return is_mine_[lane]; }

  std::vector<bool> is_mine_;  // [num]
};

// A mesh is a value: cheap to copy, compared by content (equal meshes are one
// object inside the process). A default-constructed mesh has no axis and one
// device, `cpu:0`: the mesh of tensors made while no mesh is in force.
//
// Devices are numbered row-major: the last axis runs fastest.
// Threads: all members may be called from any thread.
class Mesh {
 public:
  struct Axis {
    std::string name;
    int64_t size;
    bool operator==(const Axis&) const = default;
  };

  Mesh();
  // `devices` in row-major order; empty stands for cpu:0, cpu:1, ...
  // Throws [mesh-axes] on duplicate, empty or unspeakable names (other than of
  // letters, digits, "_", "-", "."), sizes < 1, and more than kMaxAxes axes or
  // kMaxDevices devices; [mesh-devices] if the number of devices is not the
  // product of the sizes, a device occurs twice, or memories are shared
  // otherwise than axis by axis: each axis has groups of coordinates, and two
  // devices share a memory where on every axis theirs are of one group, and
  // nowhere else. On 2 x 2 that is one memory, a memory for each row, for each
  // column, or for each device. Where devices of several processes do not
  // follow, each counts as a memory of its own.
  explicit Mesh(std::vector<Axis> axes, std::vector<Device> devices = {});

  int num_axes() const;
  // Numbers of axes and devices are the caller's: those below take them as they
  // are. Requires: 0 <= axis < num_axes(), 0 <= device < size().
  const Axis& axis(int index) const;
  // Throws [unknown-axis], naming the closest axis.
  int axis_index(std::string_view name) const;
  // Number of devices, >= 1.
  int size() const;
  const std::vector<Device>& devices() const;
  // Place of `device` (its number) along `axis`.
  int64_t coordinate(int device, int axis) const;
  // The device that differs from `device` in this coordinate alone.
  int neighbour(int device, int axis, int64_t coordinate) const;
  // Number of the memory that `device` uses (cpu_memories_are_separate).
  int memory(int device) const;
  // Valid as long as the process lives.
  const Lanes& lanes(AxisMask sharded) const;
  // Whether all devices share one memory.
  bool one_memory() const;
  // Whether a device is this process's: that of the mesh without axes is every
  // process's own.
  bool is_mine(int device) const;
  // Whether all devices are.
  bool is_all_mine() const;
  // Whether it is of devices of kind kNull.
  bool is_null() const;
  // Whether two devices that differ in this coordinate alone are of two
  // processes, for any such two.
  bool is_between_processes(int axis) const;
  // Whether sums over several axes begin with the last: over several processes,
  // whose own devices mostly lie along it, so that what is left to cross is a
  // part. In one process they begin with the first, whoever shares a memory:
  // what one memory counts is what separate ones move. False of one axis.
  bool sums_last_axis_first() const;

  // "data=2 model=4"; "" for the mesh without axes.
  std::string str() const;
  bool operator==(const Mesh& other) const { return data_ == other.data_; }

 private:
  struct Data;
  friend struct std::hash<Mesh>;
  const Data* data_;
};

// The number of this process among those that meshes span; 0 until it is set,
// before the first mesh over several.
int this_process();
void set_this_process(int process);
// Whether there is one with axes.
bool any_mesh_was_made();

// Whether each virtual CPU device of a mesh has a memory of its own, as GPUs
// have, or those of a process share one: they then hold and compute once what
// they would each alike, and add up at once what they would send each other. If
// nobody has said so, they share it where a mesh is of one process, and have
// their own where it is of several.
// Throws [cpu-memories] if TORCH_MESH_CPU_MEMORIES is neither "separate" nor
// "shared"; unset it stands for nothing.
std::optional<bool> cpu_memories_are_separate();
// Says it for meshes that are made afterwards, before the variable.
void separate_cpu_memories(std::optional<bool> separate);
// A memory for each cpu:<i> where they are not separate, as {0, 0, 1, 1} for
// two that two devices share each; none: all share one.
void set_memories_for_testing(std::vector<int> memories);

}  // namespace torch_mesh

template <>
struct std::hash<torch_mesh::Mesh> {
  size_t operator()(const torch_mesh::Mesh& mesh) const noexcept {
    return std::hash<const void*>()(mesh.data_);
  }
};

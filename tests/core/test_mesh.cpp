// test_mesh.cpp: devices, axes and lanes.

#include <torch_mesh/mesh.h>

#include <cstdint>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "core/error_of.h"

namespace torch_mesh {
namespace {

using Ints = std::vector<int>;

// Each virtual CPU device has a memory of its own while this lives.
struct SeparateMemories {
  SeparateMemories() { separate_cpu_memories(true); }
  ~SeparateMemories() { separate_cpu_memories(false); }
};

TEST(Device, ReadsTheTextItPrints) {
  EXPECT_EQ(Device::parse("cpu:13").str(), "cpu:13");
  EXPECT_EQ(Device::parse("gpu:0").str(), "gpu:0");
  EXPECT_EQ(Device::parse("tpu:2").str(), "tpu:2");
}

TEST(Device, IsTheFirstOfItsKindWithoutANumber) {
  EXPECT_EQ(Device::parse("cpu"), (Device{DeviceKind::kCpu, 0}));
}

TEST(Device, TakesTorchsNameForAGpu) {
  EXPECT_EQ(Device::parse("cuda:3").str(), "gpu:3");
}

TEST(Device, NamesTheTextThatItCannotRead) {
  EXPECT_EQ(
      error_of([] { Device::parse("cpu:x"); }),
      "Device: \"cpu:x\" names no device.\n"
      "Hint: write a kind (cpu, gpu, cuda, tpu) and a number, as in "
      "\"cpu:1\". [device-name]");
}

class DeviceText : public testing::TestWithParam<const char*> {};

TEST_P(DeviceText, IsRefused) {
  EXPECT_EQ(error_code_of([] { Device::parse(GetParam()); }), "device-name");
}

INSTANTIATE_TEST_SUITE_P(
    Bad,
    DeviceText,
    testing::Values(
        "",
        ":",
        ":0",
        "cpu:",
        "cpu:-1",
        "cpu:-0",
        "cpu:+1",
        "cpu: 1",
        "cpu:1 ",
        "cpu:99999999999",
        "mesh:0",
        "CPU:0"));

TEST(Mesh, WithoutAxesHasOneDevice) {
  const Mesh mesh;
  EXPECT_EQ(mesh.num_axes(), 0);
  EXPECT_EQ(mesh.size(), 1);
  EXPECT_EQ(mesh.devices()[0].str(), "cpu:0");
  EXPECT_EQ(mesh.str(), "");
}

TEST(Mesh, PrintsItsAxes) {
  EXPECT_EQ(Mesh({{"data", 2}, {"model", 4}}).str(), "data=2 model=4");
}

TEST(Mesh, IsEqualToAMeshOfTheSameContent) {
  const Mesh a({{"data", 2}}, {{DeviceKind::kCpu, 0}, {DeviceKind::kCpu, 1}});
  const Mesh b({{"data", 2}});
  EXPECT_EQ(a, b);
  EXPECT_EQ(std::hash<Mesh>()(a), std::hash<Mesh>()(b));
}

TEST(Mesh, DiffersByNameSizeOrDevices) {
  const Mesh mesh({{"data", 2}});
  EXPECT_NE(mesh, Mesh({{"model", 2}}));
  EXPECT_NE(mesh, Mesh({{"data", 3}}));
  EXPECT_NE(
      mesh,
      Mesh({{"data", 2}}, {{DeviceKind::kCpu, 1}, {DeviceKind::kCpu, 0}}));
}

TEST(Mesh, LetsItsLastAxisRunFastest) {
  const Mesh mesh({{"a", 2}, {"b", 3}});
  EXPECT_EQ(mesh.coordinate(5, 0), 1);
  EXPECT_EQ(mesh.coordinate(5, 1), 2);
  EXPECT_EQ(mesh.coordinate(2, 0), 0);
}

TEST(Mesh, FindsANeighbourByOneCoordinate) {
  const Mesh mesh({{"a", 2}, {"b", 3}, {"c", 2}});
  for (int device = 0; device < mesh.size(); ++device) {
    for (int axis = 0; axis < 3; ++axis) {
      for (int64_t i = 0; i < mesh.axis(axis).size; ++i) {
        const int other = mesh.neighbour(device, axis, i);
        for (int a = 0; a < 3; ++a) {
          EXPECT_EQ(
              mesh.coordinate(other, a),
              a == axis ? i : mesh.coordinate(device, a))
              << "device " << device << " axis " << axis;
        }
      }
    }
  }
}

TEST(Mesh, KnowsAnAxisByItsName) {
  EXPECT_EQ(Mesh({{"data", 2}, {"model", 4}}).axis_index("model"), 1);
}

TEST(Mesh, NamesTheAxisNearestToAnUnknownOne) {
  const Mesh mesh({{"data", 2}, {"model", 4}});
  EXPECT_EQ(
      error_of([&] { mesh.axis_index("modle"); }),
      "Mesh: the mesh has no axis \"modle\".\n"
      "  mesh    data=2 model=4\n"
      "Hint: did you mean \"model\"? [unknown-axis]");
}

TEST(Mesh, WithoutAxesKnowsNoName) {
  EXPECT_EQ(
      error_of([] { Mesh().axis_index("data"); }),
      "Mesh: the mesh has no axis \"data\".\n"
      "  mesh    without axes\n"
      "Hint: make a mesh with that axis. [unknown-axis]");
}

// The mesh "r=2 c=2" of devices with these memories.
Mesh square(const Ints& memories) {
  set_memories_for_testing(memories);
  const Mesh mesh({{"r", 2}, {"c", 2}});
  set_memories_for_testing({});
  return mesh;
}

TEST(Mesh, SharesMemoriesAxisByAxis) {
  for (const Ints& memories :
       {Ints{0, 0, 0, 0}, {0, 0, 1, 1}, {0, 1, 0, 1}, {0, 1, 2, 3}}) {
    EXPECT_EQ(square(memories).size(), 4);
  }
  for (const Ints& memories :
       {Ints{0, 1, 1, 0}, {0, 0, 0, 1}, {0, 1, 2, 0}, {0, 0, 1, 2}}) {
    EXPECT_EQ(error_code_of([&] { square(memories); }), "mesh-devices");
    set_memories_for_testing({});
  }
}

TEST(Mesh, OverProcessesGivesEachDeviceAMemory) {
  separate_cpu_memories(std::nullopt);
  std::vector<Device> devices;
  for (const char* name : {"cpu:0@0", "cpu:1@0", "cpu:0@1", "cpu:1@1"}) {
    devices.push_back(Device::parse(name));
  }
  const auto memories = [&](const std::vector<Device>& of) {
    const Mesh mesh({{"d", static_cast<int64_t>(of.size())}}, of);
    std::set<int> all;
    for (int device = 0; device < mesh.size(); ++device) {
      all.insert(mesh.memory(device));
    }
    return all.size();
  };
  EXPECT_EQ(memories(devices), 4u);
  EXPECT_EQ(memories({devices[0], devices[1]}), 1u);
  EXPECT_EQ(memories({devices[2], devices[3]}), 1u);
  separate_cpu_memories(false);
  EXPECT_EQ(memories(devices), 2u);
  separate_cpu_memories(true);
  EXPECT_EQ(memories({devices[0], devices[1]}), 2u);
  separate_cpu_memories(std::nullopt);
}

TEST(Mesh, RefusesTwoAxesOfOneName) {
  EXPECT_EQ(
      error_of([] { Mesh({{"data", 2}, {"data", 4}}); }),
      "Mesh: two axes have the name \"data\".\n"
      "  mesh    data=2 data=4\n"
      "Hint: give each axis a name of its own. [mesh-axes]");
}

TEST(Mesh, TakesNamesOfLettersDigitsAndThreeSigns) {
  EXPECT_EQ(Mesh({{"a_B-9.x", 1}}).axis(0).name, "a_B-9.x");
}

class AxisName : public testing::TestWithParam<const char*> {};

TEST_P(AxisName, IsRefused) {
  EXPECT_EQ(error_code_of([] { Mesh({{GetParam(), 2}}); }), "mesh-axes");
}

INSTANTIATE_TEST_SUITE_P(
    Unspeakable,
    AxisName,
    testing::Values("", " ", "a b", "a=2", "a,b", "{a}", "a:b", "d\xc3\xa4ta"));

class AxisSize : public testing::TestWithParam<int64_t> {};

TEST_P(AxisSize, IsRefused) {
  const int64_t size = GetParam();
  EXPECT_EQ(error_code_of([&] { Mesh({{"a", 2}, {"b", size}}); }), "mesh-axes");
}

INSTANTIATE_TEST_SUITE_P(
    Impossible,
    AxisSize,
    testing::Values(0, -1, 513, INT64_MAX));

TEST(Mesh, HasAtMostEightAxes) {
  std::vector<Mesh::Axis> axes;
  for (char c = 'a'; c < 'i'; ++c) {
    axes.push_back({std::string(1, c), 2});
  }
  EXPECT_EQ(Mesh(axes).size(), 256);
  axes.push_back({"i", 1});
  EXPECT_EQ(error_code_of([&] { Mesh{axes}; }), "mesh-axes");
}

TEST(Mesh, HasAtMost1024Devices) {
  EXPECT_EQ(Mesh({{"a", 512}, {"b", 2}}).size(), kMaxDevices);
}

TEST(Mesh, RefusesAWrongNumberOfDevices) {
  EXPECT_EQ(
      error_of(
          [] { Mesh({{"data", 2}, {"model", 2}}, {{DeviceKind::kCpu, 0}}); }),
      "Mesh: the sizes call for 4 devices, and 1 are given.\n"
      "  mesh    data=2 model=2\n"
      "Hint: give as many devices as the product of the sizes, or none. "
      "[mesh-devices]");
}

TEST(Mesh, RefusesADeviceThatOccursTwice) {
  const Device gpu = {DeviceKind::kGpu, 1};
  EXPECT_EQ(
      error_code_of([&] { Mesh({{"data", 2}}, {gpu, gpu}); }), "mesh-devices");
}

TEST(Memories, AreOneForAllCpuDevices) {
  const Mesh mesh({{"data", 4}});
  EXPECT_TRUE(mesh.one_memory());
  EXPECT_EQ(mesh.memory(0), mesh.memory(3));
}

TEST(Memories, AreOneForEachGpu) {
  const Mesh mesh(
      {{"data", 3}},
      {{DeviceKind::kCpu, 1}, {DeviceKind::kGpu, 0}, {DeviceKind::kGpu, 1}});
  EXPECT_FALSE(mesh.one_memory());
  EXPECT_EQ(
      std::set<int>({mesh.memory(0), mesh.memory(1), mesh.memory(2)}).size(),
      3u);
}

TEST(Memories, AreSeparateWhereATestAsksForIt) {
  const Mesh before({{"data", 2}});
  const SeparateMemories separate;
  const Mesh after({{"data", 2}});
  EXPECT_TRUE(before.one_memory());
  EXPECT_FALSE(after.one_memory());
  EXPECT_NE(before, after);
}

TEST(Axes, AreBetweenProcessesWhereDevicesOfSeveralLieAlongThem) {
  const Mesh mesh(
      {{"rows", 2}, {"columns", 2}},
      {Device::parse("cpu:0"),
       Device::parse("cpu:1"),
       Device::parse("cpu:0@1"),
       Device::parse("cpu:1@1")});
  EXPECT_TRUE(mesh.is_between_processes(0));
  EXPECT_FALSE(mesh.is_between_processes(1));
  EXPECT_FALSE(Mesh({{"x", 4}}).is_between_processes(0));
}

TEST(Lanes, AreOneForAReplicaInOneMemory) {
  const Mesh mesh({{"a", 2}, {"b", 2}});
  EXPECT_EQ(mesh.lanes(0).num, 1);
  EXPECT_EQ(mesh.lanes(0).first_device, (Ints{0}));
  EXPECT_EQ(mesh.lanes(0).lane_of_device, (Ints{0, 0, 0, 0}));
}

TEST(Lanes, FollowTheFirstAxis) {
  const Mesh mesh({{"a", 2}, {"b", 2}});
  EXPECT_EQ(mesh.lanes(0b01).first_device, (Ints{0, 2}));
  EXPECT_EQ(mesh.lanes(0b01).lane_of_device, (Ints{0, 0, 1, 1}));
}

TEST(Lanes, FollowTheLastAxis) {
  const Mesh mesh({{"a", 2}, {"b", 2}});
  EXPECT_EQ(mesh.lanes(0b10).first_device, (Ints{0, 1}));
  EXPECT_EQ(mesh.lanes(0b10).lane_of_device, (Ints{0, 1, 0, 1}));
}

TEST(Lanes, AreAsManyAsDevicesIfAllAxesShard) {
  EXPECT_EQ(Mesh({{"a", 2}, {"b", 3}}).lanes(0b11).num, 6);
}

TEST(Lanes, AreNotAddedByAnAxisOfSizeOne) {
  EXPECT_EQ(Mesh({{"a", 1}, {"b", 3}}).lanes(0b01).num, 1);
}

TEST(Lanes, AreAsManyAsDevicesWhereMemoriesAreSeparate) {
  const SeparateMemories separate;
  EXPECT_EQ(Mesh({{"a", 2}, {"b", 2}}).lanes(0).num, 4);
}

TEST(Lanes, JoinDevicesOfOneMemoryOnly) {
  const Mesh mesh(
      {{"a", 3}},
      {{DeviceKind::kCpu, 0}, {DeviceKind::kGpu, 0}, {DeviceKind::kCpu, 1}});
  EXPECT_EQ(mesh.lanes(0).lane_of_device, (Ints{0, 1, 0}));
}

TEST(Lanes, StayWhereTheyAre) {
  const Mesh mesh({{"a", 2}});
  EXPECT_EQ(&mesh.lanes(1), &Mesh({{"a", 2}}).lanes(1));
}

TEST(Lanes, RefuseAnAxisThatTheMeshDoesNotHave) {
  EXPECT_EQ(error_code_of([] { Mesh().lanes(1); }), "bug");
}

TEST(Lanes, AreOneObjectForAllThreads) {
  const Mesh mesh({{"threads", 4}, {"b", 2}});
  std::vector<const Lanes*> seen(4);
  std::vector<std::thread> threads;
  for (const Lanes*& lanes : seen) {
    threads.emplace_back([&] { lanes = &mesh.lanes(0b11); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(seen, std::vector<const Lanes*>(4, &mesh.lanes(0b11)));
}

}  // namespace
}  // namespace torch_mesh

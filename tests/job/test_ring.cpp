// The two ends of a ring, in one process.

#include "job/ring.h"

#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <random>
#include <vector>

#include "core/error_of.h"

namespace torch_mesh {
namespace {

struct Ring : testing::Test {
  RingPositions positions{};
  std::array<std::byte, 64> bytes{};
  RingWriter writer{positions, bytes, 3};
  RingReader reader{positions, bytes, 4};
  std::array<std::byte, 100> buffer{};

  size_t write(size_t size) { return writer.write({buffer.data(), size}); }
  size_t read(size_t size) { return reader.read({buffer.data(), size}); }
};

TEST_F(Ring, NothingShowsBeforeItIsPublished) {
  EXPECT_EQ(write(10), 10u);
  EXPECT_EQ(read(10), 0u);
  EXPECT_TRUE(writer.publish());
  EXPECT_FALSE(writer.publish());
  EXPECT_EQ(read(20), 10u);
}

TEST_F(Ring, AsMuchIsWrittenAsFits) {
  EXPECT_EQ(write(100), 64u);
  EXPECT_EQ(write(1), 0u);
  writer.publish();
  EXPECT_EQ(read(30), 30u);
  EXPECT_EQ(write(1), 0u);
  EXPECT_TRUE(reader.publish());
  EXPECT_EQ(write(100), 30u);
}

TEST_F(Ring, ReaderTellsWhetherTheRingWasFull) {
  write(63);
  writer.publish();
  read(10);
  EXPECT_FALSE(reader.publish());
  write(100);
  writer.publish();
  read(10);
  EXPECT_TRUE(reader.publish());
  EXPECT_FALSE(reader.publish());
}

TEST_F(Ring, BytesComeInOrderAcrossTheWrap) {
  std::mt19937 random(1);
  uint8_t next_written = 0;
  uint8_t next_read = 0;
  for (int i = 0; i < 2000; ++i) {
    std::array<std::byte, 40> piece;
    for (size_t k = 0; k < piece.size(); ++k) {
      piece[k] = static_cast<std::byte>(next_written + k);
    }
    next_written += writer.write({piece.data(), random() % 40});
    writer.publish();
    const size_t size = reader.read({piece.data(), random() % 40});
    for (size_t k = 0; k < size; ++k) {
      ASSERT_EQ(piece[k], static_cast<std::byte>(next_read++));
    }
    reader.publish();
  }
}

TEST_F(Ring, PositionsOfNonsenseAreErrors) {
  write(10);
  writer.publish();
  for (const uint64_t wrong : {uint64_t{65}, ~uint64_t{0}, uint64_t{1} << 63}) {
    RingReader fresh(positions, bytes, 4);
    positions.written = wrong;
    EXPECT_EQ(error_code_of([&] { fresh.read(buffer); }), "peer-lost");
  }
  for (const uint64_t wrong : {uint64_t{11}, ~uint64_t{0} - 63}) {
    positions.read = wrong;
    RingWriter fresh(positions, bytes, 3);
    fresh.write({buffer.data(), 10});
    EXPECT_EQ(error_code_of([&] { fresh.write(buffer); }), "peer-lost");
  }
}

}  // namespace
}  // namespace torch_mesh

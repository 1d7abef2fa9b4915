// test_block.cpp: runs of bytes, cut anew.

#include <string>

#include <gtest/gtest.h>

#include "job/block.h"

namespace torch_mesh {
namespace {

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(Runs, are_copied_out_and_in_however_they_are_cut) {
  const std::string parts[] = {"a", "bcd", "efghi", "j"};
  for (size_t first = 0; first <= 10; ++first) {
    ByteRuns<const std::byte> from;
    for (const std::string& part : parts) {
      from.add(bytes(part));
    }
    std::byte packed[10];
    copy_out(from, packed, first);
    EXPECT_EQ(from.num_bytes, 10 - first);
    copy_out(from, packed + first, 10 - first);
    EXPECT_TRUE(from.runs.empty());

    std::string whole(10, '?');
    ByteRuns<std::byte> to;
    to.add(std::as_writable_bytes(std::span(whole).first(4)));
    to.add(std::as_writable_bytes(std::span(whole).subspan(4)));
    copy_in(to, packed, first);
    EXPECT_EQ(to.num_bytes, 10 - first);
    copy_in(to, packed + first, 10 - first);
    EXPECT_EQ(whole, "abcdefghij");
  }
}

TEST(Runs, what_is_left_of_one_run_needs_no_packing) {
  const std::string text = "abcdef";
  ByteRuns<const std::byte> runs;
  runs.add(bytes(text).first(2));
  runs.add(bytes(text).subspan(2));
  std::byte front[3];
  copy_out(runs, front, 3);
  ASSERT_EQ(runs.runs.size(), 1u);
  EXPECT_EQ(runs.runs[0].data(), bytes(text).data() + 3);
}

TEST(Scratch, keeps_its_memory_for_smaller_uses) {
  Scratch scratch;
  const std::byte* first = scratch.of_size(100);
  EXPECT_EQ(scratch.of_size(7), first);
  scratch.of_size(1000);
  EXPECT_EQ(scratch.size, 1000u);
}

}  // namespace
}  // namespace torch_mesh

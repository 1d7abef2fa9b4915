// test_background.cpp: tasks beside the program, and what they note.

#include "job/background.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "job/journal.h"

namespace torch_mesh {
namespace {

TEST(Background, RunsTasksInOrderOnOneThread) {
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  for (int i = 0; i < 50; ++i) {
    begin_in_background([&, i] {
      finish_background();  // returns: nobody waits for himself
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
    });
  }
  finish_background();
  ASSERT_EQ(order.size(), 50u);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(order[i], i);
    EXPECT_EQ(threads[i], threads[0]);
  }
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(Background, FinishesWhatIsBegun) {
  std::atomic<bool> may_end = false;
  std::atomic<bool> has_ended = false;
  begin_in_background([&] {
    while (!may_end) {
      std::this_thread::yield();
    }
    has_ended = true;
  });
  EXPECT_FALSE(has_ended);
  may_end = true;
  finish_background();
  EXPECT_TRUE(has_ended);
  finish_background();  // nothing is left
}

// What a branch notes is what it would be if the program waited for it.
TEST(Journal, OfABranchDoesNotDependOnTheProgramMeanwhile) {
  const Mesh one({{"branch_a", 2}});
  const Mesh other({{"branch_b", 2}});
  note(one, 7);
  note(other, 7);
  const uint64_t of_one = begin_branch(one);
  const uint64_t of_other = begin_branch(other);
  EXPECT_EQ(of_one, of_other);
  note(other, 9);  // goes on before its branch does
  uint64_t begun_early = 0;
  uint64_t begun_late = 0;
  std::thread([&] {
    const OnBranch branch(of_one);
    begun_early = note_step(one, "sum").hash;
  }).join();
  std::thread([&] {
    const OnBranch branch(of_other);
    begun_late = note_step(other, "sum").hash;
  }).join();
  EXPECT_EQ(begun_early, begun_late);
  note(one, 9);
  EXPECT_EQ(note_step(one, "x").hash, note_step(other, "x").hash);
  // A program without the branch is another one.
  const Mesh without({{"branch_c", 2}});
  note(without, 7);
  note(without, 9);
  EXPECT_NE(note_step(without, "x").hash, note_step(one, "x").hash);
}

}  // namespace
}  // namespace torch_mesh

// test_state.cpp: every change of a storage's memory, from every state of it.

#include "tensor/state.h"

#include <functional>
#include <map>
#include <stdexcept>
#include <string>

#include <gtest/gtest.h>

namespace torch_mesh {
namespace {

using Change = std::function<void(StorageState&)>;

const std::map<std::string, Change>& changes() {
  static const auto& all = *new std::map<std::string, Change>{
      {"leave_blank", [](StorageState& s) { s.leave_blank(); }},
      {"get_memory", [](StorageState& s) { s.get_memory(); }},
      {"begin_reduction", [](StorageState& s) { s.begin_reduction(); }},
      {"end_reduction", [](StorageState& s) { s.end_reduction(); }},
      {"place", [](StorageState& s) { s.place(false); }},
      {"borrow", [](StorageState& s) { s.borrow(); }},
      {"replace_memory", [](StorageState& s) { s.replace_memory(); }},
      {"form_sums", [](StorageState& s) { s.form_sums(); }},
      {"change_layout", [](StorageState& s) { s.change_layout(); }},
      {"write", [](StorageState& s) { s.write(); }},
      {"break_value", [](StorageState& s) { s.break_value(); }},
      {"heal", [](StorageState& s) { s.heal(); }}};
  return all;
}

// What became of it; "refused" if the change is none that the state has, and
// left it alone.
std::string after(StorageState& state, const std::string& change) {
  const std::string before = state.str();
  try {
    changes().at(change)(state);
  } catch (const std::logic_error& error) {
    EXPECT_EQ(state.str(), before);
    EXPECT_EQ(error.what(), "storage: " + change + " while it is " + before);
    return "refused";
  }
  return state.str();
}

std::string text(
    const std::string& memory,
    int memory_generation = 0,
    int layout_generation = 0,
    int value_generation = 0) {
  return memory + "; generations: memory " + std::to_string(memory_generation) +
         ", layout " + std::to_string(layout_generation) + ", value " +
         std::to_string(value_generation);
}

using Table = std::map<std::string, std::string>;

// Of a state that `reach` makes, each change by itself.
void expect_changes(
    const std::vector<std::string>& reach,
    const Table& expected) {
  ASSERT_EQ(expected.size(), changes().size());
  for (const auto& [change, result] : expected) {
    StorageState state;
    for (const std::string& step : reach) {
      ASSERT_NE(after(state, step), "refused") << step;
    }
    EXPECT_EQ(after(state, change), result) << change;
  }
}

TEST(StorageState, unwritten) {
  expect_changes(
      {},
      {{"leave_blank", text("blank")},
       {"get_memory", text("held")},
       {"begin_reduction", "refused"},
       {"end_reduction", "refused"},
       {"place", text("unwritten, not placed")},
       {"borrow", "refused"},
       {"replace_memory", "refused"},
       {"form_sums", "refused"},
       {"change_layout", text("unwritten", 1, 1)},
       {"write", text("unwritten", 0, 0, 1)},
       {"break_value", text("unwritten, broken", 1)},
       {"heal", "refused"}});
}

TEST(StorageState, blank) {
  expect_changes(
      {"place", "leave_blank"},
      {{"leave_blank", text("blank, not placed")},
       {"get_memory", text("held, not placed")},
       {"begin_reduction", "refused"},
       {"end_reduction", "refused"},
       {"place", text("blank, not placed")},
       {"borrow", "refused"},
       {"replace_memory", "refused"},
       {"form_sums", "refused"},
       {"change_layout", text("blank", 1, 1)},
       {"write", text("blank, not placed", 0, 0, 1)},
       {"break_value", text("blank, not placed, broken", 1)},
       {"heal", "refused"}});
}

TEST(StorageState, held) {
  expect_changes(
      {"get_memory"},
      {{"leave_blank", "refused"},
       {"get_memory", "refused"},
       {"begin_reduction", text("reducing")},
       {"end_reduction", "refused"},
       {"place", "refused"},
       {"borrow", text("held, borrowed")},
       {"replace_memory", text("held", 1)},
       {"form_sums", text("held", 1)},
       {"change_layout", text("held", 1, 1)},
       {"write", text("held", 0, 0, 1)},
       {"break_value", text("held, broken", 1)},
       {"heal", "refused"}});
}

TEST(StorageState, reducing) {
  expect_changes(
      {"get_memory", "begin_reduction"},
      {{"leave_blank", "refused"},
       {"get_memory", "refused"},
       {"begin_reduction", "refused"},
       {"end_reduction", text("held")},
       {"place", "refused"},
       {"borrow", "refused"},
       {"replace_memory", "refused"},
       {"form_sums", text("reducing", 1)},
       {"change_layout", "refused"},
       {"write", text("reducing", 0, 0, 1)},
       {"break_value", text("reducing, broken", 1)},
       {"heal", "refused"}});
}

TEST(StorageState, borrowed) {
  expect_changes(
      {"get_memory", "borrow"},
      {{"leave_blank", "refused"},
       {"get_memory", "refused"},
       {"begin_reduction", text("reducing, borrowed")},
       {"end_reduction", "refused"},
       {"place", "refused"},
       {"borrow", text("held, borrowed")},
       {"replace_memory", text("held", 1)},
       {"form_sums", text("held, borrowed", 1)},
       {"change_layout", text("held", 1, 1)},
       {"write", text("held, borrowed", 0, 0, 1)},
       {"break_value", text("held, borrowed, broken", 1)},
       {"heal", "refused"}});
}

TEST(StorageState, broken_is_healed_once) {
  StorageState state;
  for (const char* step : {"get_memory", "break_value"}) {
    after(state, step);
  }
  EXPECT_EQ(after(state, "heal"), text("held", 1));
  EXPECT_EQ(after(state, "heal"), "refused");
}

}  // namespace
}  // namespace torch_mesh

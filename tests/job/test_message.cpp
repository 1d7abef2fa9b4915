// Heads of messages, compared.

#include "job/message.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "core/error_of.h"
#include "job/exchanges.h"

namespace torch_mesh {
namespace {

const MessageHead kMine{7, 3, 100, stamp_of(9, "add of x")};

std::string error_for(const MessageHead& received) {
  return error_of([&] { check_head(kMine, received, 5); });
}

TEST(Message, EqualHeadsAreTaken) { EXPECT_EQ(error_for(kMine), ""); }

TEST(Message, TextsAloneMayDiffer) {
  MessageHead received = kMine;
  received.stamp.set_text("add of y");
  EXPECT_EQ(error_for(received), "");
}

TEST(Message, EachNumberMustBeEqual) {
  for (uint64_t MessageHead::* member :
       {&MessageHead::number, &MessageHead::num_bytes}) {
    MessageHead received = kMine;
    received.*member += 1;
    EXPECT_NE(error_for(received), "");
  }
  MessageHead received = kMine;
  received.stamp.hash += 1;
  EXPECT_NE(error_for(received), "");
}

TEST(Message, ErrorNamesBothProcessesAndWhatTheyDo) {
  MessageHead received = kMine;
  received.number = 4;
  received.stamp.set_text("mul of y");
  const std::string error = error_for(received);
  for (const char* part : {"process 5 runs another program than process 0",
                           "\n  process 0  add of x (message 3, 100 bytes)",
                           "\n  process 5  mul of y (message 4, 100 bytes)",
                           "\nHint: ",
                           "[processes-differ]"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << " in\n" << error;
  }
}

TEST(Message, OneOfAnotherJobIsToldFromOneOfAnotherProgram) {
  MessageHead received{};
  received.job = 8;
  const std::string error = error_for(received);
  EXPECT_NE(error.find("another job"), std::string::npos) << error;
  EXPECT_NE(error.find("[processes-differ]"), std::string::npos) << error;
}

TEST(Message, TextWithoutAnEndIsCutAtItsSize) {
  MessageHead received = kMine;
  received.number = 4;
  std::memset(received.stamp.text, 'z', Stamp::kTextSize);
  const std::string error = error_for(received);
  const std::string all(Stamp::kTextSize, 'z');
  EXPECT_NE(error.find(all + " ("), std::string::npos) << error;
}

TEST(Message, StampsKeepTheBeginningOfLongTexts) {
  Stamp stamp;
  std::memset(stamp.text, 'x', Stamp::kTextSize);
  stamp.set_text(std::string(500, 'a'));
  EXPECT_EQ(std::string(stamp.text), std::string(Stamp::kTextSize - 1, 'a'));
  stamp.set_text("b");
  EXPECT_EQ(
      std::string(stamp.text, Stamp::kTextSize),
      "b" + std::string(Stamp::kTextSize - 1, '\0'));
}

TEST(Message, ForeignTextIsShownInPrintableCharacters) {
  EXPECT_EQ(shown("a b~"), "a b~");
  EXPECT_EQ(shown("\x1b[31m\n\xff\x7f"), "\\x1b[31m\\x0a\\xff\\x7f");
  EXPECT_EQ(shown(std::string("\0", 1)), "\\x00");
  EXPECT_EQ(shown(std::string(1000, 'q')).size(), size_t{Stamp::kTextSize});
}

}  // namespace
}  // namespace torch_mesh

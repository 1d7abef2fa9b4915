// rule.cpp: rules as others see them: a text, and what it says of a call.

#include <torch_mesh/rule.h>

#include "rules/binding.h"
#include "rules/modifiers.h"
#include "rules/notation.h"

namespace torch_mesh {
namespace {

class ParsedRule : public Rule {
 public:
  explicit ParsedRule(std::string_view text)
      : alternatives_(rules::parse_notation(text)) {
    for (const rules::Alternative& alternative : alternatives_) {
      text_ += (text_.empty() ? "" : " | ") + alternative.str();
    }
  }

  // The first alternative that fits.
  bool resolve(const OpCall& call, Resolved& out) const override {
    for (const rules::Alternative& alternative : alternatives_) {
      if (fits(alternative, call, out)) {
        return true;
      }
    }
    return false;
  }

  const std::string& str() const override { return text_; }

 private:
  static bool fits(
      const rules::Alternative& alternative,
      const OpCall& call,
      Resolved& out) {
    for (const rules::Modifier& modifier : alternative.modifiers) {
      if (modifier.name == "random" ||
          (modifier.name == "when" && !rules::holds(call, modifier))) {
        return false;
      }
    }
    if (alternative.modifier("program")) {
      out = {};
      out.is_program = true;
      return true;
    }
    rules::Binding binding(call, alternative);
    return binding.bind() && binding.apply_modifiers() && binding.result(out);
  }

  std::vector<rules::Alternative> alternatives_;
  std::string text_;
};

}  // namespace

std::shared_ptr<const Rule> Rule::parse(std::string_view text) {
  return std::make_shared<ParsedRule>(text);
}

}  // namespace torch_mesh

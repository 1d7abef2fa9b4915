// program.cpp: programs by name.

#include "dispatch/program.h"

#include <map>
#include <string_view>

namespace torch_mesh {
namespace {

using Key = std::pair<std::string_view, Program::When>;

// Written at start alone, so that it needs no lock.
std::map<Key, Program::Run>& table() {
  static auto* table = new std::map<Key, Program::Run>;
  return *table;
}

}  // namespace

void add_programs(std::span<const Program> programs) {
  for (const Program& program : programs) {
    const bool is_new =
        table().emplace(Key(program.name, program.when), program.run).second;
    TORCH_INTERNAL_ASSERT(is_new, program.name, " has two programs");
  }
}

Program::Run find_program(const std::string& name, Program::When when) {
  const auto found = table().find(Key(name, when));
  return found == table().end() ? nullptr : found->second;
}

}  // namespace torch_mesh

// random.cpp: ops whose numbers belong to places of the whole tensor.
//
// No factor of theirs is sharded. src/random draws for the whole tensor and
// cuts; what it does not know is computed on replicas.

#include "rules/families.h"

namespace torch_mesh::rules {

void add_random_rules(RuleTable& table) {
  table.add_all(
      {"aten::bernoulli",
       "aten::cauchy_",
       "aten::exponential_",
       "aten::geometric_",
       "aten::log_normal_",
       "aten::normal_",
       "aten::random_",
       "aten::uniform_"},
      "x*, ... -> x*, ... random overwrites refuses_overlap");
  table.add_all(
      {"aten::multinomial",
       "aten::native_dropout",
       "aten::poisson",
       "aten::rrelu_with_noise"},
      "x*, ... -> x*, ... random");
}

}  // namespace torch_mesh::rules

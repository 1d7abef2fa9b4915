"""Conformance: every op under every layout against plain torch.

    python -m tests.conformance                    # sampled, all suites
    python -m tests.conformance --suite ops --only '^add$' --mesh 2
    python -m tests.conformance --full --markdown docs/conformance.md
    python -m tests.conformance --plant scaled     # the suites themselves

The cases come from the databases that torch's wheel ships (`op_db`,
`module_db`, `optim_db`) and, where these say nothing, from tables here. A suite
is a module with `units(options)`, names of pieces of work, and
`run(unit, options, record)`, which does one piece in a worker process. Each
case ends in one class: right, raises (where plain torch does not), wrong, or
skipped with the reason. A right case is open too where plain torch itself, with
its sums rounded otherwise, gives a value that differs visibly: there the case
says little.
"""

SUITES = [
    "ops",
    "writes",
    "views",
    "destinations",
    "modules",
    "optimizers",
    "dtypes",
    "random_ops",
    "ecosystem",
]

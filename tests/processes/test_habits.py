"""What people do who come from other libraries, and what they are told."""

import textwrap

from tests.processes import spawn

FIT = """
keras.distribution.set_distribution(keras.distribution.DataParallel())
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
x = np.random.RandomState(0).randn(32, 8).astype("float32")
y = np.ones((32, 1), "float32")
"""


def check(program, **options):
    return spawn.check(
        FIT + textwrap.dedent(program),
        start=spawn.START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1"},
        **options,
    )


def test_one_process_may_be_the_only_one_that_shows_its_progress():
    shown, silent = check(
        """
        verbose = 1 if me == 0 else 0
        model.fit(x, y, batch_size=8, verbose=verbose, validation_data=(x, y))
        model.evaluate(x, y, batch_size=8, verbose=verbose)
        model.predict(x, batch_size=8, verbose=verbose)
        """
    )
    assert "loss" in shown and not silent.strip()


def test_rows_of_its_own_are_refused_where_each_reads_a_part():
    check(
        """
        other = 'auto_shard_dataset=False'
        def said(x, y):
            try:
                model.fit(x, y, batch_size=8, verbose=0)
            except ValueError as error:
                return str(error)
            return ""
        own = said(x[me::2], y[me::2])
        assert "[processes-differ]" in own and other in own, own
        moved = said(x + me, y)
        assert "[processes-differ]" in moved and other in moved, moved
        assert said(x, y) == ""
        """
    )


ALONE = """
import torch, torch_mesh as tm, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        tm.Mesh({"data": 2})
print(len(said), said[0].message if said else "")
"""


def said_alone(**variables):
    [(code, out, err)] = spawn.run(
        ALONE,
        ids=[0],
        preamble="",
        start="",
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "2", **variables},
    )
    assert code == 0, err
    return out


def test_who_is_one_of_several_and_joins_none_is_warned_once():
    assert said_alone().strip() == "0"
    assert said_alone(WORLD_SIZE="1", RANK="0").strip() == "0"
    for variables in (
        {"WORLD_SIZE": "2", "RANK": "0"},
        {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"},
    ):
        said = said_alone(**variables)
        assert said.startswith("1 ") and "[not-joined]" in said, said
        assert "initialize" in said


LATE = """
tm.Mesh({"data": 1})
late = said(lambda: tm.initialize(addresses, 2, me, timeout=60))
assert "[initialized-late]" in late, late
"""


def test_a_mesh_before_the_job_is_refused_in_every_process():
    results = spawn.run(
        spawn.SAID + LATE,
        preamble=spawn.PLAIN,
        start="",
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
    for code, _, err in results:
        assert code == 0, err


PARITY = """
mesh = tm.Mesh({"data": 2})
with tm.use(mesh, batch="data"):
    linear = torch.nn.Linear(8, 2).to("mesh")
def step(linear):
    return linear(torch.ones(2, 8, device="mesh")).sum()
assert "[one-process]" in said(lambda: tm.check_parity(step, linear))
"""


def test_parity_is_for_one_process():
    check(spawn.SAID + PARITY)


def test_two_threads_at_once_are_told_so():
    outputs = spawn.check(
        """
        import threading
        mesh = tm.Mesh({"data": 2})
        x = tm.distribute(torch.arange(1000.0), mesh, ("S0",))
        found = []
        def read(k):
            try:
                for _ in range(300):
                    found.append((x * k).sum().item())
            except (RuntimeError, ValueError) as error:
                found.append(str(error))
        threads = [threading.Thread(target=read, args=(k,)) for k in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        numbers = {v for v in found if isinstance(v, float)}
        assert numbers <= {499500.0, 999000.0}, numbers
        print([v for v in found if isinstance(v, str)])
        """,
        preamble=spawn.PLAIN,
        start=spawn.PLAIN_START,
        environment=lambda _: {"TORCH_MESH_CPU_DEVICES": "1"},
    )
    for output in outputs:
        assert "[bug]" not in output, output
    assert any("[collective-thread]" in output for output in outputs), outputs

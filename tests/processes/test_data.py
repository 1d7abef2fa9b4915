"""Keras's data over processes: who reads which rows, and what must be equal."""

import pytest
from tests.processes import spawn

SETUP = """
import torch.utils.data as torch_data
count = {count}
x = np.random.default_rng(0).normal(size=(21, 6)).astype("float32")
y = (x @ np.ones((6, 1), "float32")) ** 2

class Recorded(torch_data.Dataset):
    def __init__(self):
        self.read = []
    def __len__(self):
        return len(x)
    def __getitem__(self, i):
        self.read.append(i)
        return x[i], y[i]

def build(is_built=True):
    keras.utils.set_random_seed(7)
    model = keras.Sequential(([keras.Input((6,))] if is_built else []) + [
        keras.layers.Dense(8, activation="tanh"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1),
    ])
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    return model

def same(found, expected, model, plain):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

def distribution(**options):
    return keras.distribution.DataParallel(**options)
"""


def check(program, count=2, devices=(2, 1, 1)):
    """Runs a program in `count` processes, which all must end well."""
    return spawn.check(
        spawn.SAID + SETUP.format(count=count) + program,
        ids=range(count),
        start=spawn.JOIN.format(count=count),
        environment=lambda i: {"TORCH_MESH_CPU_DEVICES": str(devices[i])},
        addresses=spawn.free_addresses(1),
    )


# Batches of 10, 10 and 1 rows: they do not divide, and of the last one all
# processes but the first have no row.
READS = """
for shuffle in (True, "batch", False):
    plain, options = build(False), dict(
        batch_size=10, epochs=2, verbose=0, shuffle=shuffle,
        validation_data=(x[:7], y[:7]))
    expected = plain.fit(x, y, **options).history
    with distribution().scope():
        model = build(False)
        same(model.fit(x, y, **options).history, expected, model, plain)
        np.testing.assert_allclose(
            model.predict(x, batch_size=10, verbose=0),
            plain.predict(x, batch_size=10, verbose=0), rtol=1e-4, atol=1e-5)

def loader(dataset, shuffle, workers=0):
    return torch_data.DataLoader(
        dataset, batch_size=10, shuffle=shuffle, num_workers=workers,
        persistent_workers=bool(workers))

for workers in (0, 1):
    dataset, alone = Recorded(), Recorded()
    plain = build()
    expected = plain.fit(
        loader(alone, True, workers), epochs=2, verbose=0).history
    with distribution().scope():
        model = build()
        found = model.fit(
            loader(dataset, True, workers), epochs=2, verbose=0).history
        same(found, expected, model, plain)
    if not workers:
        print("@", [dataset.read, alone.read])
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_process_reads_its_own_rows_alone(count):
    outputs = check(READS, count)
    lines = [out[out.index("@") + 1 :].splitlines()[0] for out in outputs]
    found = [eval(line) for line in lines]
    whole = found[0][1]  # what one process reads
    # Ten rows are cut into 4, 4, 2 or 3, 3, 3, 1; process 0 has two devices.
    ends = {2: [8, 10], 3: [6, 9, 10]}[count]
    # The first batch is read once more, to build the metrics.
    batches = [10, 10, 10, 1, 10, 10, 1]
    for process, (read, alone) in enumerate(found):
        assert alone == whole
        expected, start = [], 0
        for rows in batches:
            first = min(ends[process - 1] if process else 0, rows)
            stop = min(ends[process], rows)
            expected += whole[start : start + rows][first:stop]
            start += rows
        assert start == len(whole)
        assert read == expected, process


def test_what_a_dataset_draws_leaves_the_processes_alike():
    outputs = check("""
class Noisy(Recorded):
    def __getitem__(self, i):
        noise = float(torch.rand(())), float(np.random.rand())
        self.read.append(noise)
        return x[i] + noise[0], y[i]

with distribution().scope():
    model, dataset = build(), Noisy()
    model.fit(torch_data.DataLoader(dataset, 10, shuffle=True), epochs=2,
              verbose=0)
print(float(torch.rand(())), float(np.random.rand()))
print(dataset.read)
""")
    states, draws = zip(
        *(out.splitlines()[-2:] for out in outputs), strict=True
    )
    assert states[0] == states[1]
    drawn = [eval(line) for line in draws]
    every = [number for rows in drawn for row in rows for number in row]
    # The first batch is read once more, to build the metrics.
    assert len(set(every)) == len(every) == 2 * (10 + 2 * 21)


def test_inputs_that_differ_are_named():
    check("""
def generator(scale, batches=3):
    for i in range(batches):
        yield x[:8], y[:8] * scale

with distribution().scope():
    model = build()
    text = said(lambda: model.fit(generator(1 + me), verbose=0))
    assert "[processes-differ]" in text and "input      y" in text, text
    assert f"process {me}  float32[8, 1]" in text, text
    assert text.count("checksum") == 2 and "(this one)" in text, text
    text = said(lambda: model.train_on_batch(x[:8 + me], y[:8 + me]))
    assert text.startswith("train_on_batch:"), text
    assert "float32[9, 6]" in text and "input      x" in text, text
    # Generators of other lengths: whole batches end for all or for none.
    text = said(lambda: model.fit(generator(1, 3 + me), verbose=0))
    assert "process 0  ended" in text and "process 1  goes on" in text, text
    # Known lengths are compared before the first batch.
    rows = 20 if me else 30
    loader = torch_data.DataLoader(torch.zeros(rows, 6), 10)
    text = said(lambda: model.predict(loader, verbose=0))
    assert "number of batches" in text, text
    assert "process 0  3" in text and "process 1  2" in text, text
    # Each process draws other indices.
    dataset = Recorded()
    sampler = torch_data.DistributedSampler(dataset, count, me)
    loader = torch_data.DataLoader(dataset, 5, sampler=sampler)
    text = said(lambda: model.fit(loader, verbose=0))
    assert "read different batches" in text, text
    assert "DistributedSampler" in text, text
    model.fit(x, y, verbose=0)  # the job goes on
""")


def test_parts_that_do_not_fit_are_named():
    check("""
def generator(width):
    yield x[:4, :width], y[:4]

with distribution(auto_shard_dataset=False).scope():
    model = build()
    text = said(lambda: model.fit(generator(6 - me), verbose=0))
    assert "[processes-differ]" in text and "input      x" in text, text
    assert "float32[4, 5]" in text and "float32[4, 6]" in text, text
    text = said(lambda: model.fit(x[:10 + 10 * me], y[:10 + 10 * me],
                                  batch_size=5, verbose=0))
    assert "process 0  2" in text and "process 1  4" in text, text
""")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_who_has_ended_goes_on_with_no_rows(count):
    check(
        """
# Process p has p + 2 batches, of 2 rows and of 1.
def own(p):
    for i in range(p + 2):
        start = 3 * i + p
        rows = slice(start, start + 2 - i % 2)
        yield x[rows], y[rows]

def all_parts():
    sources = [list(own(p)) for p in range(count)]
    for i in range(max(map(len, sources))):
        there = [source[i] for source in sources if i < len(source)]
        yield tuple(np.concatenate(parts) for parts in zip(*there))

plain = build()
expected = plain.fit(all_parts(), verbose=0, shuffle=False).history
alone = plain.evaluate(all_parts(), verbose=0, return_dict=True)
rows = plain.predict(all_parts(), verbose=0)
with distribution(auto_shard_dataset=False).scope():
    model = build()
    found = model.fit(own(me), verbose=0, shuffle=False).history
    same(found, expected, model, plain)
    results = model.evaluate(own(me), verbose=0, return_dict=True)
    same(results, alone, model, plain)
    predicted = model.predict(own(me), verbose=0)
    np.testing.assert_allclose(predicted, rows, rtol=1e-4, atol=1e-5)
""",
        count,
    )


def test_processes_that_share_rows_hand_in_the_same():
    check(
        """
def mesh(shape, **options):
    mesh = keras.distribution.DeviceMesh(
        shape, ["data", "model"], keras.distribution.list_devices())
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="data", **options)

plain, options = build(), dict(batch_size=8, verbose=0)
expected = plain.fit(x, y, **options).history
with mesh((1, 2)).scope():
    model = build()
    same(model.fit(x, y, **options).history, expected, model, plain)
with mesh((1, 2), auto_shard_dataset=False).scope():
    model = build()
    same(model.fit(x, y, **options).history, expected, model, plain)
    text = said(lambda: model.fit(x + me, y, **options))
    assert "[processes-differ]" in text and "input      x" in text, text
    assert "have the same rows" in text, text
""",
        devices=(1, 1),
    )

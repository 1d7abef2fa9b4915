"""Every way from one layout to another, of every dtype, between processes.

What each device has afterwards is compared, bit for bit, with a mesh of as many
devices of one process, each of which has a memory of its own.
"""

import pytest
from tests.processes import spawn

PROGRAM = """
import itertools
count = {count}
torch.set_num_threads(1)
local = tm.list_local_devices()
spread = [name for name in tm.list_devices("cpu")][::count]
if count == 4 and {is_square}:
    axes = {{"a": 2, "b": 2}}
    placements = list(itertools.product(["R", "S0", "S1", "P+"], repeat=2))
else:
    axes = {{"a": count}}
    placements = [(p,) for p in ("R", "S0", "S1", "P+")]
here, everywhere = tm.Mesh(axes, local), tm.Mesh(axes, spread)
DTYPES = (
    "float32 float64 float16 bfloat16 int8 uint8 int16 int32 int64 bool "
    "complex64 complex128 uint16 uint32 uint64 float8_e4m3fn"
).split()
generator = torch.Generator().manual_seed(5)

def drawn(sizes, dtype):
    x = torch.randint(0, 100, sizes, generator=generator)
    if dtype.is_floating_point or dtype.is_complex:
        x = x / 7
    return (x % 2 == 1) if dtype == torch.bool else x.to(dtype)

def bits(x):
    flat = x.contiguous().reshape(-1)
    return flat.view(torch.uint8).tolist() if flat.numel() else []

moved = 0
for name, sizes in itertools.product(DTYPES, {sizes}):
    dtype = getattr(torch, name)
    try:
        drawn((2,), dtype) + drawn((2,), dtype)
        has_sums = dtype != torch.bool
    except (NotImplementedError, RuntimeError):
        has_sums = False
    value = drawn(sizes, dtype)
    for source, to in itertools.product(placements, repeat=2):
        if not has_sums and "P+" in source + to:
            continue
        layouts = [tm.Layout(mesh, source) for mesh in (here, everywhere)]
        if "P+" in source:
            parts = [
                drawn(layouts[0].shard_shape(sizes, device), dtype)
                for device in range(count)
            ]
            if "R" in source or "S0" in source or "S1" in source:
                # Of devices that hold the same the first one's part is taken.
                whole = tm.redistribute(
                    tm.from_shards(parts, layouts[0]), ("R",) * len(source)
                )
                same = ("R",) * len(source)
                xs = [
                    tm.redistribute(
                        tm.distribute(tm.full(whole), mesh, same), source
                    )
                    for mesh in (here, everywhere)
                ]
            else:
                xs = [
                    tm.from_shards(parts, layouts[0]),
                    tm.from_shards(
                        [p if i == me else None for i, p in enumerate(parts)],
                        layouts[1],
                    ),
                ]
        else:
            xs = [tm.distribute(value, layout) for layout in layouts]
        alone, ours = (tm.redistribute(x, to) for x in xs)
        assert tm.layout(ours).placements == tm.layout(alone).placements == to
        expected, found = tm.shards(alone)[me], tm.shards(ours)[me]
        where = (name, sizes, source, to)
        assert found.dtype == expected.dtype == dtype, where
        assert found.shape == expected.shape, where
        if source == ("P+", "P+") and "P+" not in to and dtype.is_complex | (
            dtype.is_floating_point
        ):
            # One process adds up along the first axis first, several along
            # the last, of which a process has more devices.
            wide = [x.to(torch.complex128) for x in (found, expected)]
            least = torch.finfo(dtype).eps * 400
            assert torch.allclose(*wide, rtol=0, atol=least), where
        else:
            assert bits(found) == bits(expected), (where, found, expected)
        moved += 1
print(moved)
"""


@pytest.mark.parametrize("transport", ["", "c10d"])
@pytest.mark.parametrize(
    ("count", "is_square"), [(2, False), (3, False), (4, False), (4, True)]
)
def test_each_device_has_the_bits_of_one_process(transport, count, is_square):
    sizes = [(5, 3)] if is_square else [(5, 3), (1, 7), (0, 3), (8, 4)]
    outputs = spawn.check(
        PROGRAM.format(count=count, is_square=is_square, sizes=sizes),
        ids=range(count),
        preamble=spawn.PLAIN,
        start=spawn.JOIN.format(count=count),
        environment=lambda _: {
            "TORCH_MESH_CPU_DEVICES": str(count),
            "TORCH_MESH_CPU_MEMORIES": "separate",
            "TORCH_MESH_TRANSPORT": transport,
        },
        addresses=spawn.free_addresses(1),
    )
    # 16 dtypes; those that have sums have the ways of sums, too.
    least = 16 * len(sizes) * (81 if is_square else 9)
    assert all(int(output) >= least for output in outputs), outputs

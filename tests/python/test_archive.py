"""`torch.save` and safetensors write large global tensors block by block."""

import io
import os
import pickle
import subprocess
import sys
import zipfile

import pytest
import safetensors
import safetensors.torch
import torch

import torch_mesh as tm
from torch_mesh import archive, blocks

MESH = tm.Mesh({"data": 2, "model": 3})
DTYPES = [torch.float32, torch.bfloat16, torch.int8, torch.complex64]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)


@pytest.fixture
def streamed(monkeypatch):
    """The number of blocks of each storage that was streamed."""
    counts = []
    original = archive.OnMesh.blocks

    def counted(self):
        counts.append(0)
        for block in original(self):
            counts[-1] += 1
            yield block

    monkeypatch.setattr(archive.OnMesh, "blocks", counted)
    return counts


def values():
    torch.manual_seed(0)
    tensors = {str(d): (9 * torch.randn(7, 11)).to(d) for d in DTYPES}
    tensors["small"] = torch.arange(3.0)
    tensors["row"] = torch.randn(100)
    return tensors


def on_mesh(tensors, placements=("S0", "R")):
    return {k: tm.distribute(v, MESH, placements) for k, v in tensors.items()}


def contents(file):
    """[(name, bytes)] of an archive; checks each record's checksum."""
    with zipfile.ZipFile(file) as opened:
        assert opened.testzip() is None
        return [
            (info.filename, opened.read(info)) for info in opened.infolist()
        ]


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].device.type == "cpu"
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("placements", [("S0", "R"), ("R", "R"), ("S0", "S0")])
def test_the_file_is_the_one_that_torch_writes(streamed, tmp_path, placements):
    plain = values()
    torch.save(on_mesh(plain, placements), tmp_path / "mesh.a.pt")
    assert len(streamed) == 5
    os.mkdir(tmp_path / "plain")
    torch.save(plain, tmp_path / "plain" / "mesh.a.pt")
    ours = (tmp_path / "mesh.a.pt").read_bytes()
    torchs = (tmp_path / "plain" / "mesh.a.pt").read_bytes()
    # Byte for byte, but for the last record, a random name of the file.
    at = torchs.index(b".data/serialization_id")
    assert ours[:at] == torchs[:at]
    assert len(ours) == len(torchs)
    assert contents(tmp_path / "mesh.a.pt")[-1][0] == (
        "mesh.a/.data/serialization_id"
    )


@pytest.mark.parametrize("mmap", [False, True])
def test_a_file_loads_as_any_other(streamed, tmp_path, mmap):
    plain = values()
    torch.save(on_mesh(plain), tmp_path / "a.pt")
    assert streamed
    assert_equal(torch.load(tmp_path / "a.pt", mmap=mmap), plain)
    with torch.utils.serialization.config.patch(
        "load.calculate_storage_offsets", True
    ):
        assert_equal(torch.load(tmp_path / "a.pt", mmap=True), plain)


def test_a_file_object_need_not_seek(streamed, tmp_path):
    class Pipe:
        def __init__(self):
            self.written = b""

        def write(self, data):
            self.written += bytes(data)
            return len(data)

        def flush(self):
            self.flushed = len(self.written)

    pipe = Pipe()
    torch.save(on_mesh(values()), pipe)
    assert len(streamed) == 5
    assert pipe.flushed == len(pipe.written)
    assert_equal(torch.load(io.BytesIO(pipe.written)), values())
    assert contents(io.BytesIO(pipe.written))[0][0] == "archive/data.pkl"


def test_a_name_beyond_ascii_and_an_alignment_of_its_own(streamed, tmp_path):
    path = tmp_path / "\u6a21.pt"
    with torch.utils.serialization.config.patch("save.storage_alignment", 4096):
        torch.save(on_mesh(values()), path)
    assert len(streamed) == 5
    assert_equal(torch.load(path), values())
    with zipfile.ZipFile(path) as opened:
        starts = []
        for info in opened.infolist():
            with opened.open(info):
                starts.append(opened.fp.tell())
    assert {start % 4096 for start in starts} == {0}


def test_files_without_large_tensors_of_the_mesh_are_torchs(
    streamed, monkeypatch, tmp_path
):
    def fail(*args):
        raise AssertionError("an archive of ours")

    monkeypatch.setattr(archive.Archive, "__init__", fail)
    for value in (
        values(),
        {"x": tm.distribute(torch.ones(3), MESH, ("S0", "R"))},
        3,
    ):
        torch.save(value, tmp_path / "a.pt")
        torch.load(tmp_path / "a.pt")
    assert not streamed


def test_views_and_ties_are_kept(streamed, tmp_path):
    base = tm.distribute(torch.arange(60.0).reshape(6, 10), MESH, ("S0", "S1"))
    parameter = torch.nn.Parameter(base)
    torch.save(
        {"w": parameter, "tied": parameter, "part": base[2:4], "t": base.t()},
        tmp_path / "a.pt",
    )
    assert len(streamed) == 1
    found = torch.load(tmp_path / "a.pt")
    assert found["w"] is found["tied"]
    assert isinstance(found["w"], torch.nn.Parameter)
    expected = torch.arange(60.0).reshape(6, 10)
    assert torch.equal(found["w"], expected)
    assert torch.equal(found["part"], expected[2:4])
    assert torch.equal(found["t"], expected.t())
    assert found["t"].untyped_storage().data_ptr() == (
        found["w"].untyped_storage().data_ptr()
    )


def test_pending_sums_permuted_and_blockwise_tensors(tmp_path):
    a = torch.randn(6, 6)
    tensors = {
        "sum": tm.distribute(a, MESH, ("S1", "R"))
        @ tm.distribute(a, MESH, ("S0", "R")),
        "permuted": tm.distribute(a, MESH, ("S0", "R")).t().clone(),
        "channels": tm.distribute(
            torch.randn(2, 3, 4, 5), MESH, ("S0", "R")
        ).to(memory_format=torch.channels_last),
        "blocks": tm.distribute(a, MESH, ("S0/2", "R")),
        "bytes": tm.distribute(
            torch.arange(200, dtype=torch.uint8), MESH, ("S0", "R")
        ),
        "none": tm.distribute(torch.ones(0, 9), MESH, ("S0", "R")),
    }
    torch.save(tensors, tmp_path / "a.pt")
    found = torch.load(tmp_path / "a.pt")
    for name, x in tensors.items():
        assert torch.equal(found[name], tm.full(x)), name
        assert found[name].stride() == x.stride(), name


def test_a_save_inside_a_save_and_one_that_fails(streamed, tmp_path):
    class Nested:
        def __init__(self, x):
            self.x = x

        def __reduce__(self):
            buffer = io.BytesIO()
            torch.save(self.x, buffer)
            return bytes, (buffer.getvalue(),)

    x = tm.distribute(torch.arange(90.0), MESH, ("S0", "R"))
    torch.save([Nested(x), x], tmp_path / "a.pt")
    assert len(streamed) == 2
    inner, outer = torch.load(tmp_path / "a.pt", weights_only=False)
    assert torch.equal(torch.load(io.BytesIO(inner)), outer)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        torch.save([x, lambda: 0], tmp_path / "b.pt")
    assert archive._saving.file is None
    with pytest.raises(RuntimeError, match="Parent directory"):
        torch.save(x, tmp_path / "no" / "b.pt")
    # Outside of a save a storage is what it was.
    assert isinstance(x.untyped_storage().cpu(), torch.UntypedStorage)


def test_a_record_beyond_four_gigabytes_has_long_numbers():
    class Large:
        """Takes what is written without keeping it."""

        def __init__(self):
            self.ends = b""

        def write(self, data):
            if len(data) < 1000:
                self.ends += bytes(data)

    head = archive.Archive(Large(), "a", 64)
    head._position = 2**32 + 64
    torchs_order = head._head(b"a/data/0", 2**32)
    assert len(torchs_order) % 64 == 0
    # id 1: size, size, start
    assert torchs_order[38:66] == (
        b"\1\0\x18\0" + 2 * (2**32).to_bytes(8, "little")
        + (2**32 + 64).to_bytes(8, "little")
    )  # fmt: skip
    entry = archive._directory_entry(
        archive.Record(b"a/data/0", 5, 2**32, 2**32 + 64)
    )
    assert entry.endswith(torchs_order[38:66])


# safetensors


def save_file(*args, **kwargs):
    safetensors.torch.save_file(*args, **kwargs)


@pytest.fixture
def no_whole_tensor(monkeypatch):
    """Large tensors must not come to the host as wholes."""
    original = torch.Tensor.to

    def to(self, *args, **kwargs):
        if tm.is_global(self) and args[:1] == ("cpu",):
            assert self.nbytes <= blocks.BLOCK_BYTES
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)


@pytest.mark.parametrize("placements", [("S0", "R"), ("R", "R"), ("S0", "S0")])
def test_a_safetensors_file_is_the_one_of_the_library(
    no_whole_tensor, tmp_path, placements
):
    plain = values()
    meta = {"format": "pt"}
    save_file(on_mesh(plain, placements), tmp_path / "mesh", meta)
    save_file(plain, str(tmp_path / "plain"), metadata=meta)
    assert sorted(os.listdir(tmp_path)) == ["mesh", "plain"]
    assert (tmp_path / "mesh").read_bytes() == (tmp_path / "plain").read_bytes()


def test_views_in_a_safetensors_file(no_whole_tensor, tmp_path):
    base = tm.distribute(torch.arange(90.0).reshape(9, 10), MESH, ("R", "S1"))
    parameter = torch.nn.Parameter(base[3:])
    save_file({"part": parameter}, tmp_path / "a")
    found = safetensors.torch.load_file(tmp_path / "a")
    assert torch.equal(found["part"], torch.arange(30.0, 90.0).reshape(6, 10))


def test_what_safetensors_refuses_it_refuses_here(tmp_path):
    x = tm.distribute(torch.ones(9, 10), MESH, ("S0", "R"))
    with pytest.raises(RuntimeError, match="share memory"):
        save_file({"a": x, "b": x}, tmp_path / "a")
    with pytest.raises(ValueError, match="non contiguous"):
        save_file({"a": x.t()}, tmp_path / "a")
    with pytest.raises(ValueError, match="expected torch.Tensor"):
        save_file({"a": x, "b": 3}, tmp_path / "a")
    with pytest.raises((OSError, safetensors.SafetensorError)):
        save_file({"a": x}, tmp_path / "no" / "a")
    assert os.listdir(tmp_path) == []


def test_a_file_that_cannot_be_finished_is_not_there(monkeypatch, tmp_path):
    def fail(*args):
        raise MemoryError

    x = tm.distribute(torch.ones(9, 10), MESH, ("S0", "R"))
    monkeypatch.setattr(blocks, "read_block", fail)
    with pytest.raises(MemoryError):
        save_file({"a": x}, tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "imports",
    [
        "import safetensors.torch, torch, torch_mesh as tm",
        "import torch, torch_mesh as tm, safetensors.torch",
    ],
)
def test_either_may_be_imported_first(imports):
    program = f"""
{imports}
assert safetensors.torch.save_file.__wrapped__
import sys
assert safetensors.torch.__spec__.loader.get_source("safetensors.torch")
waiting = [getattr(f, "_waiting", ()) for f in sys.meta_path]
assert not any("safetensors.torch" in names for names in waiting)
"""
    subprocess.run([sys.executable, "-c", program], check=True)

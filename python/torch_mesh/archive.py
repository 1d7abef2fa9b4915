"""`torch.save` of global tensors, a block at a time.

torch brings each storage to the host as a whole and hands it to its C++ writer
of zip archives. A file with a large storage of the mesh is written here, in the
same format to the byte: records without compression, each on a multiple of the
storage alignment, its checksum behind it. All other files are torch's own work.

Requires of torch.serialization: `_open_zipfile_writer(f)` gives a context
manager of an object with `write_record(name, data, num_bytes)`, `data.pkl` is
the first record, and a storage that is not on the CPU is asked for `cpu()`. A
torch that does otherwise saves as it does without this.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from torch_mesh import _C, blocks

_LIMIT_32 = 0xFFFFFFFF
_LIMIT_16 = 0xFFFF
_FLAGS = 0x0808  # sizes and checksum behind the data; names in UTF-8


class OnMesh:
    """What stands for a storage's bytes until they are written.

    Args:
        storage: A `torch.UntypedStorage` of the mesh.
        to_host: Gives the whole of it as a storage of the CPU.
    """

    def __init__(self, storage: Any, to_host: Callable[[Any], Any]) -> None:
        self._storage, self._to_host = storage, to_host

    def blocks(self) -> Iterator[memoryview]:
        """The bytes of the storage, in order; each view is good until the next.

        Where bytes and shards do not meet simply (block-cyclic layouts, dims
        out of order), the storage comes to the host as a whole.
        """
        size = self._storage.nbytes()
        block = _no_bytes("cpu").new_empty(min(blocks.BLOCK_BYTES, size))
        for start in range(0, size, len(block)):
            part = block[: min(len(block), size - start)]
            window = _no_bytes("mesh")
            window.set_(self._storage, start, (len(part),), (1,))
            if not _C.read_bytes(part, window):
                yield _bytes_of(self._to_host(self._storage), start)
                return
            yield part.numpy().data


class Record(NamedTuple):
    """A file of the archive, as its directory lists it."""

    name: bytes
    checksum: int
    num_bytes: int
    start: int


class Archive:
    """Writes torch's zip format, with the methods of its C++ writer.

    Args:
        file: A binary file object; only its `write` is called.
        name: Of the folder that all records are in.
        alignment: Of the data of each record, in bytes.
    """

    def __init__(self, file: Any, name: str, alignment: int) -> None:
        self._file, self._folder = file, name
        self._alignment = alignment
        self._position = 0
        self._records: list[Record] = []

    def write_record(self, name: str, data: Any, num_bytes: int) -> None:
        """Writes a record.

        Args:
            name: Without the folder.
            data: str, bytes, a storage of the CPU, or an `OnMesh`.
            num_bytes: Its size.
        """
        start = self._position
        full_name = f"{self._folder}/{name}".encode()
        self._write(self._head(full_name, num_bytes))
        checksum = 0
        for block in _blocks_of(data):
            checksum = zlib.crc32(block, checksum)
            self._write(block)
        sizes = "<QQ" if num_bytes >= _LIMIT_32 else "<II"
        self._write(struct.pack("<4sI", b"PK\7\x08", checksum))
        self._write(struct.pack(sizes, num_bytes, num_bytes))
        self._records.append(Record(full_name, checksum, num_bytes, start))

    def write_end_of_file(self) -> None:
        """Writes what torch puts last, and the directory."""
        version = _version()
        self.write_record("version", version, len(version))
        names = hashlib.sha256(b"\n".join(r.name for r in self._records))
        sums = hashlib.sha256(
            repr([r.checksum for r in self._records]).encode()
        )
        name_of_file = "".join(
            f"{int.from_bytes(half.digest()[:8], 'big'):020d}"
            for half in (names, sums)
        )
        self.write_record(".data/serialization_id", name_of_file, 40)
        start = self._position
        for record in self._records:
            self._write(_directory_entry(record))
        self._write(_end(len(self._records), start, self._position - start))

    def _head(self, name: bytes, num_bytes: int) -> bytes:
        """What precedes the data, filled up to the alignment."""
        large = []
        if num_bytes >= _LIMIT_32:
            large += [num_bytes, num_bytes]
        if self._position >= _LIMIT_32:
            large += [self._position]
        extra = _large_sizes(large)
        size = 30 + len(name) + len(extra) + 4
        filling = -(self._position + size) % self._alignment
        extra += struct.pack("<2sH", b"FB", filling) + b"Z" * filling
        head = struct.pack(
            "<4sHHH16sHH",
            b"PK\3\4",
            0,
            _FLAGS,
            0,
            bytes(16),
            len(name),
            len(extra),
        )
        return head + name + extra

    def _write(self, data: Any) -> None:
        self._file.write(data)
        self._position += len(data)


def _large_sizes(values: list[int]) -> bytes:
    """The extra field for numbers that take more than 32 bits."""
    if not values:
        return b""
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def _directory_entry(record: Record) -> bytes:
    sizes = [record.num_bytes, record.num_bytes, record.start]
    extra = _large_sizes([value for value in sizes if value >= _LIMIT_32])
    short = [min(value, _LIMIT_32) for value in sizes]
    return (
        struct.pack(
            "<4sHHHHIIIIHHHHHII",
            b"PK\1\2",
            0,
            0,
            _FLAGS,
            0,
            0,  # time and date
            record.checksum,
            short[0],
            short[1],
            len(record.name),
            len(extra),
            0,
            0,
            0,
            0,
            short[2],
        )
        + record.name
        + extra
    )


def _end(count: int, start: int, size: int) -> bytes:
    """The end of an archive whose directory is `size` bytes at `start`."""
    return (
        struct.pack(
            "<4sQHHIIQQQQ",
            b"PK\6\6",
            44,
            0x031E,
            45,
            0,
            0,
            count,
            count,
            size,
            start,
        )
        + struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
        + struct.pack(
            "<4sHHHHIIH",
            b"PK\5\6",
            0,
            0,
            min(count, _LIMIT_16),
            min(count, _LIMIT_16),
            min(size, _LIMIT_32),
            min(start, _LIMIT_32),
            0,
        )
    )


@functools.cache
def _version() -> bytes:
    """What torch's writer puts into the record `version`."""
    buffer = io.BytesIO()
    torch._C.PyTorchFileWriter(buffer).write_end_of_file()
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/version")


def _blocks_of(data: Any) -> Iterator[memoryview]:
    if isinstance(data, OnMesh):
        yield from data.blocks()
    elif isinstance(data, str):
        yield memoryview(data.encode())
    elif isinstance(data, bytes):
        yield memoryview(data)
    else:
        yield _bytes_of(data, 0)


def _bytes_of(storage: Any, start: int) -> memoryview:
    """The bytes of a storage of the CPU from `start` on."""
    whole = _no_bytes("cpu")
    whole.set_(storage, start, (storage.nbytes() - start,), (1,))
    return whole.numpy().data


def _no_bytes(device: str) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=device)


# Replacements; `torch_patches.py` says what for.


class _Saving(threading.local):
    """The innermost `torch.save` of a thread."""

    file: _File | None = None


_saving = _Saving()


class _File:
    """What `torch.save` gets in place of torch's writer.

    Nothing is opened before the first record: by then the object is pickled,
    and `note` has seen all storages.

    Args:
        original: `torch.serialization._open_zipfile_writer`.
        target: Path or file object.
    """

    def __init__(self, original: Callable[[Any], Any], target: Any) -> None:
        self._original, self._target = original, target
        self._has_large = False
        self._opened: Any = None  # torch's context manager
        self._writer: Any = None
        self._file: Any = None
        self._outer: _File | None = None

    @property
    def is_streaming(self) -> bool:
        return isinstance(self._writer, Archive)

    def note(self, storage: Any) -> None:
        """Called for each storage of the mesh in what is saved."""
        self._has_large = self._has_large or is_large(storage)

    def __enter__(self) -> _File:
        self._outer, _saving.file = _saving.file, self
        return self

    def __exit__(self, *error: Any) -> None:
        _saving.file = self._outer
        if self.is_streaming:
            try:
                if error[0] is None:
                    self._writer.write_end_of_file()
            finally:
                if self._file is not self._target:
                    self._file.close()
            if self._file is self._target:
                self._target.flush()
        elif self._opened is not None:
            self._opened.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._writer is None:
            self._open()
        return getattr(self._writer, name)

    def _open(self) -> None:
        serialization: Any = torch.serialization
        if not self._has_large or serialization._serialization_tls.skip_data:
            self._opened = self._original(self._target)
            self._writer = self._opened.__enter__()
            return
        name = "archive"
        self._file = self._target
        if isinstance(self._target, str):
            # torch checks the path and makes a file, which is written anew.
            self._original(self._target).__exit__(None, None, None)
            self._file = open(self._target, "wb")  # noqa: SIM115
            if self._target.isascii():
                name = os.path.splitext(os.path.basename(self._target))[0]
        self._writer = Archive(
            self._file, name, serialization._get_storage_alignment()
        )


def is_large(storage: Any) -> bool:
    """Whether a storage is on the mesh, and more than one block.

    Args:
        storage: A `torch.UntypedStorage`.
    """
    return (
        storage.device.type == "mesh" and storage.nbytes() > blocks.BLOCK_BYTES
    )


def tag(storage: Any) -> str | None:
    """The tag of a storage of the mesh in a file: "cpu" (law 16).

    So files load where torch_mesh is not installed, and under any mesh.
    """
    if storage.device.type != "mesh":
        return None
    if _saving.file is not None:
        _saving.file.note(storage)
    return "cpu"


def open_zipfile_writer(original: Any) -> Any:
    """Wraps `torch.serialization._open_zipfile_writer`."""

    @functools.wraps(original)
    def _open_zipfile_writer(name_or_buffer: Any) -> Any:
        return _File(original, name_or_buffer)

    return _open_zipfile_writer


def to_host(original: Any) -> Any:
    """Wraps `cpu` of storages: a large one stays until it is written."""

    @functools.wraps(original)
    def cpu(self: Any) -> Any:
        file = _saving.file
        if file is not None and file.is_streaming and is_large(self):
            return OnMesh(self, original)
        return original(self)

    return cpu

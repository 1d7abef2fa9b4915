"""Files of safetensors with large global tensors, written a block at a time.

`safetensors.torch.save_file` brings all tensors to the host before it writes.
Here it writes a file with stand-ins for the large ones, memory of zeros that
takes none, and their bytes are put in the place that the file's head gives. So
what may be saved, and how, is for safetensors to say.

File format: u64 length of the head, the head in JSON with a range of bytes for
each tensor, all bytes; little-endian.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torch_mesh import _C, blocks


def save_file(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `safetensors.torch.save_file`."""
    if sys.byteorder != "little":
        return original

    @functools.wraps(original)
    def save_file(
        tensors: Any, filename: Any, metadata: dict[str, str] | None = None
    ) -> Any:
        large = {}
        if isinstance(tensors, dict):
            large = {k: v for k, v in tensors.items() if _is_large(v)}
        if not large:
            return original(tensors, filename, metadata)
        # Zeros are never to be found under the name that was asked for.
        path = os.fspath(filename)
        unfinished = f"{path}.unfinished"
        try:
            result = original(
                {**tensors, **_stand_ins(large)}, unfinished, metadata
            )
            _fill_in(unfinished, large)
            os.replace(unfinished, path)
        except BaseException:
            if os.path.exists(unfinished):
                os.remove(unfinished)
            raise
        return result

    return save_file


def _is_large(x: Any) -> bool:
    return (
        isinstance(x, Tensor)
        and _C.is_global(x)
        and x.is_contiguous()
        and x.nbytes > blocks.BLOCK_BYTES
    )


def _stand_ins(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain tensors of the same geometry that share memory as these do."""
    memory: dict[int, Tensor] = {}
    made = {}
    for name, x in tensors.items():
        storage = x.untyped_storage()
        if storage._cdata not in memory:
            # Pages that are only read are all the system's one page of zeros.
            pages = mmap.mmap(
                -1, storage.nbytes(), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            )
            memory[storage._cdata] = torch.frombuffer(pages, dtype=torch.uint8)
        zeros = memory[storage._cdata].view(x.dtype)
        made[name] = zeros.as_strided(x.shape, x.stride(), x.storage_offset())
    return made


def _fill_in(path: str, tensors: dict[str, Tensor]) -> None:
    """Writes the values of tensors into a file that has room for them."""
    with open(path, "r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(size))
        for name, x in tensors.items():
            file.seek(8 + size + head[name]["data_offsets"][0])
            step = max(1, blocks.BLOCK_BYTES // x.element_size())
            for start in range(0, x.numel(), step):
                count = min(step, x.numel() - start)
                block = blocks.read_block(x.detach(), start, count)
                file.write(block.view(torch.uint8).numpy().data)

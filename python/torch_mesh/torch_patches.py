"""What is replaced in torch, in groups, and what is registered with it.

Where a replacement hands on all that it is given, or the original has no
signature to read, a patch expects nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.serialization import register_package

from torch_mesh import (
    archive,
    arrays,
    late_modules,
    moves,
    pickles,
    tensor_file,
    torch_replacements,
)
from torch_mesh.patching import Group, Patch, Table

# Asked before the device is registered; what they said stays so.
ACCELERATOR = Group(
    "the machine's own accelerator",
    tuple(
        Patch(
            "torch._C",
            name,
            torch_replacements.same_answer,
            "torch.accelerator, pinned memory and init_process_group go on "
            "with the real accelerator",
        )
        for name in ("_get_accelerator", "_accelerator_getAccelerator")
    ),
)

AT_REGISTRATION = (
    Group(
        "printed layouts",
        (
            Patch(
                "torch._tensor_str",
                "_str",
                torch_replacements.tensor_str,
                "a printed global tensor ends with its layout",
                expects="self, *, tensor_contents=",
            ),
        ),
    ),
    Group(
        "torch.save in blocks",
        (
            Patch(
                "torch.serialization",
                "_open_zipfile_writer",
                archive.open_zipfile_writer,
                "a file with a large storage of the mesh is written by us",
                expects="name_or_buffer",
            ),
            Patch(
                "torch.storage",
                "_StorageBase.cpu",
                archive.to_host,
                "a large storage does not come to the host as a whole",
                expects="self",
            ),
        ),
    ),
    Group(
        "NumPy",
        (
            Patch(
                "torch",
                "Tensor.numpy",
                arrays.numpy,
                "x.numpy() gathers, and is read-only",
            ),
            Patch(
                "torch",
                "Tensor.__array_wrap__",
                arrays.array_wrap,
                "what NumPy computes of a global tensor stays on its mesh",
                expects="self, array",
            ),
        ),
    ),
    Group(
        "layouts of modules that move",
        (
            Patch(
                "torch.nn",
                "Module._apply",
                moves.module_apply,
                "module.cpu() and back is as it stood",
                expects="self, fn, recurse=",
            ),
            Patch(
                "torch.nn",
                "Module._load_from_state_dict",
                moves.load_from_state_dict,
                "layouts stay, whatever stands in the dict",
                expects="self, state_dict, prefix, local_metadata, strict, "
                "missing_keys, unexpected_keys, error_msgs",
            ),
            Patch(
                "torch.optim.optimizer",
                "Optimizer._process_value_according_to_param_policy",
                moves.process_value,
                "a state that is loaded stands as its parameter does",
                expects="param, value, param_id, param_groups, key=",
            ),
        ),
    ),
    Group(
        "DistributedDataParallel",
        (
            Patch(
                "torch.nn.parallel",
                "DistributedDataParallel.__init__",
                moves.distributed_data_parallel_init,
                "a module on the mesh is refused: it needs none",
            ),
        ),
    ),
    Group(
        "pickles",
        tuple(
            Patch(
                "torch",
                f"{kind}.__reduce__",
                pickles.storage_reduce,
                "a pickle holds plain storages",
                expects="self",
            )
            for kind in ("TypedStorage", "UntypedStorage")
        ),
    ),
    Group(
        "DLPack",
        tuple(
            Patch(
                module,
                name,
                torch_replacements.no_capsule,
                "the address of a global tensor is none to read from",
            )
            for module, name in (
                ("torch", "Tensor.__dlpack__"),
                ("torch", "Tensor.__dlpack_device__"),
                ("torch.utils.dlpack", "to_dlpack"),
                ("torch", "to_dlpack"),
            )
        ),
    ),
    Group(
        'autocast("cpu")',
        (
            Patch(
                "torch.amp.autocast_mode",
                "autocast.__enter__",
                torch_replacements.autocast_enter,
                "it means the mesh too, whose devices are CPUs",
                expects="self",
            ),
            Patch(
                "torch.amp.autocast_mode",
                "autocast.__exit__",
                torch_replacements.autocast_exit,
                "it means the mesh too, whose devices are CPUs",
                expects="self, exc_type, exc_val, exc_tb",
            ),
        ),
    ),
    Group(
        "linear_cross_entropy",
        (
            Patch(
                "torch.nn",
                "LinearCrossEntropyOptions._adjust",
                torch_replacements.adjust_loss,
                "chunks and the dtype of sums are those of the devices",
                expects=(
                    "self, num_batches, in_features, num_classes, dtype, "
                    "device=",
                    "self, num_batches, in_features, num_classes, dtype, "
                    "device=, prob_target=",
                ),
            ),
        ),
    ),
    Group(
        "AveragedModel",
        (
            Patch(
                "torch.optim.swa_utils",
                "get_swa_multi_avg_fn",
                torch_replacements.swa_multi_avg,
                "averages of integers are those of the CPU",
                expects="",
            ),
        ),
    ),
)

# Applied when a program loads the module, which it may never do.
LATE = (
    Group(
        "safetensors in blocks",
        (
            Patch(
                "safetensors.torch",
                "save_file",
                tensor_file.save_file,
                "large tensors do not come to the host as a whole",
                expects="tensors, filename, metadata=",
            ),
        ),
    ),
    Group(
        "FlexAttention",
        (
            Patch(
                "torch.nn.attention.flex_attention",
                "_validate_device",
                torch_replacements.validate_device,
                "a mesh of CPUs is a kind of device that it knows",
                expects="query, key, value",
            ),
        ),
    ),
    Group(
        "attention of jagged tensors",
        (
            Patch(
                "torch.nested._internal.ops",
                "jagged_scaled_dot_product_attention",
                "torch_mesh.jagged:attention",
                "torch's own makes nested tensors that no mesh holds",
                expects="query, key, value, attn_mask=, dropout_p=, "
                "is_causal=, scale=, enable_gqa=",
            ),
        ),
    ),
)

TABLE = Table((ACCELERATOR, *AT_REGISTRATION, *LATE), lambda: torch.__version__)


class Registration(NamedTuple):
    """What torch or Python is told, where they have a place for it.

    Attributes:
        place: Whom.
        register: Does it.
        why: What it is for.
    """

    place: str
    register: Callable[[], None]
    why: str


REGISTRATIONS = (
    Registration(
        "torch.serialization.register_package",
        # Torch's own packages are asked from 10 on.
        lambda: register_package(
            5, archive.tag, lambda storage, location: None
        ),
        "files hold plain CPU storages",
    ),
    Registration(
        "torch.serialization.register_package",
        lambda: register_package(
            9, lambda storage: None, pickles.load_onto_mesh
        ),
        'torch.load(map_location="mesh")',
    ),
    Registration(
        "copyreg.pickle, torch.serialization.add_safe_globals",
        pickles.devices_register_the_mesh,
        'a pickle of torch.device("mesh") makes the device exist',
    ),
    Registration(
        "multiprocessing.reduction.ForkingPickler",
        pickles.queues_hold_plain_tensors,
        "queues between processes, and workers of a DataLoader",
    ),
)


def apply() -> None:
    """Applies all but `ACCELERATOR`, and registers. Once per process."""
    TABLE.apply(groups=AT_REGISTRATION)
    for registration in REGISTRATIONS:
        registration.register()
    _report()
    late_modules.when_loaded(
        (patch.module for group in LATE for patch in group.patches), _apply_late
    )


def _apply_late(module: str) -> None:
    known = len(TABLE.missing)
    TABLE.apply(module, LATE)
    if len(TABLE.missing) > known:
        _report()


def _report() -> None:
    """Warns of the features that are left out, if there are any."""
    if not TABLE.missing:
        return
    lines = [
        f"  {feature}  {', '.join(problems)}\n"
        for feature, problems in TABLE.missing.items()
    ]
    warnings.warn(
        f"torch_mesh: torch {torch.__version__} lacks what some features build"
        f" on; they are left out.\n{''.join(lines)}"
        "Hint: install a torch that docs/releases.md names. [unknown-torch]",
        stacklevel=2,
    )

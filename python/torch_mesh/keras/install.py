"""The one place that patches Keras.

`PATCHES` lists every change, `CHECKED_VERSIONS` the Keras releases it was run
against. No patch does more than ask one question until a distribution is set:
`import keras` stays as it is, and the C++ library loads at the first call that
needs it.

`before` and `after` are called around the execution of four of Keras's modules
by the import hook of `torch_mesh_autoload`; `install_now` does the same for a
Keras that is loaded already. All are idempotent and never raise: what is
missing in an unknown Keras is reported once, by `complete`, at the first
`set_distribution`.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from torch_mesh.keras import active, compat, device_name, distribution_lib
from torch_mesh.keras.compat import (
    BACKEND_LIB,
    CHECKED_VERSIONS,
    CORE,
    DISTRIBUTION,
    TRAINER,
)
from torch_mesh.keras.patches import (
    AT_FIRST_DISTRIBUTION,
    AT_IMPORT,
    GLOBAL_STATE,
    TABLE,
)
from torch_mesh.patching import rebind

# The modules that the import hook brackets with `before` and `after`.
HOOKED = (CORE, TRAINER, DISTRIBUTION, BACKEND_LIB)
PATCHES = TABLE.patches

_complete = False


def before(name: str) -> None:
    """Called before Keras's module `name` is executed.

    Args:
        name: One of `HOOKED`; others are ignored.
    """
    if name == DISTRIBUTION:
        _guarded(_supply_backend_lib)


def again(name: str) -> None:
    """Called when Keras's module `name` has been executed once more.

    Args:
        name: One of `HOOKED`. What was replaced in it is Keras's own again.
    """
    global _complete
    TABLE.forget(name)
    _complete = False


def after(name: str, module: types.ModuleType) -> None:
    """Called after Keras's module `name` was executed.

    Args:
        name: One of `HOOKED`; others are ignored.
        module: The module.
    """
    if name not in HOOKED or not compat.is_on_torch():
        return
    if name == BACKEND_LIB:
        _guarded(_replace_backend_lib, module)
    elif name == CORE:
        _guarded(_name_mesh_device, module)
        TABLE.apply(CORE, AT_IMPORT)
        TABLE.apply(GLOBAL_STATE, AT_IMPORT)
    else:
        is_core_done = f"{CORE}.Variable._initialize" in TABLE.done
        if name == DISTRIBUTION and not is_core_done:
            # Where this Keras has it elsewhere, no hook has seen it load.
            _guarded(lambda: after(CORE, compat.core()))
        TABLE.apply(name, AT_IMPORT)


def install_now() -> None:
    """Patches a Keras that was loaded without the import hook.

    Does nothing if Keras is not loaded, or if the hook did its work.
    """
    if DISTRIBUTION not in sys.modules or not compat.is_on_torch():
        return
    if f"{DISTRIBUTION}.set_distribution" in TABLE.done:
        return
    before(DISTRIBUTION)
    after(DISTRIBUTION, sys.modules[DISTRIBUTION])
    if TRAINER in sys.modules:
        after(TRAINER, sys.modules[TRAINER])
    sys.modules[DISTRIBUTION].distribution_lib = (  # type: ignore[attr-defined]
        sys.modules["keras.src.backend"].distribution_lib
    )
    for patch in PATCHES:
        done = TABLE.done.get(patch.name)
        if done is not None and "." not in patch.attribute:
            rebind(done.original, done.replacement, "keras")


def complete() -> None:
    """Applies the patches that wait for the first distribution.

    Warns once, naming the features that are left out, if this Keras is not as
    expected.
    """
    global _complete
    if _complete:
        return
    _complete = True
    TABLE.apply(groups=AT_FIRST_DISTRIBUTION)
    for name in ("save_model", "save_weights"):
        done = TABLE.done.get(f"keras.src.saving.saving_api.{name}")
        if done is not None:  # Keras's public names for them
            rebind(done.original, done.replacement, "keras")
    if TABLE.missing:
        width = max(map(len, [*TABLE.missing, "checked"]))
        lines = [
            f"  {feature.ljust(width)}  {', '.join(problems)}\n"
            for feature, problems in TABLE.missing.items()
        ]
        warnings.warn(
            f"torch_mesh: Keras {compat.version()} lacks what some features "
            "build on; they are left out.\n"
            f"{''.join(lines)}"
            f"  {'checked'.ljust(width)}  Keras {', '.join(CHECKED_VERSIONS)}\n"
            "Hint: install a checked version, or expect these parts to run "
            "as plain Keras. [unknown-keras]",
            stacklevel=2,
        )


active.at_first_distribution(complete)


def _guarded(function: Callable[..., None], *args: Any) -> None:
    """Runs `function`; an exception becomes one line of the report."""
    try:
        function(*args)
    except Exception as error:  # a broken hook must not break `import keras`
        TABLE.missing.setdefault("import hook", []).append(repr(error))


# Keras's modules


def _supply_backend_lib() -> None:
    """Gives Keras's torch backend its `distribution_lib`."""
    if not compat.is_on_torch():
        return
    backend: Any = sys.modules["keras.src.backend"]
    backend.distribution_lib = distribution_lib
    package: Any = sys.modules.get("keras.src.backend.torch")
    if package is not None:
        package.distribution_lib = distribution_lib
    sys.modules[BACKEND_LIB] = distribution_lib


def _replace_backend_lib(module: types.ModuleType) -> None:
    """Puts ours in the place of a `distribution_lib` that Keras brings.

    Names that only Keras's module has stay reachable, for its own importers.
    But for the mode in which it promotes tensors to DTensors: a Python call
    for each op of the process, and nothing here is a DTensor.
    """
    for name, value in vars(module).items():
        if not name.startswith("__") and "dtensor_promotion" not in name:
            vars(distribution_lib).setdefault(name, value)
    sys.modules[BACKEND_LIB] = distribution_lib


def _name_mesh_device(module: types.ModuleType) -> None:
    """Honours KERAS_TORCH_DEVICE=mesh, which needs the device at once."""
    default = getattr(module, "DEFAULT_DEVICE", "")
    if device_name.names_mesh(default):
        from torch_mesh import device, devices  # they load the engine

        device.register()
        kind = devices.list_devices()[0].partition(":")[0]
        named = device_name.MeshDevice("cuda" if kind == "gpu" else kind)
        vars(module)["DEFAULT_DEVICE"] = named

"""The one place that patches Keras.

`PATCHES` lists every change, `CHECKED_VERSIONS` the Keras releases it was run
against. Nothing is imported here but the standard library, and no patch does
more than ask one question until a distribution is set: `import keras` stays as
it is, and the C++ library loads at the first call that needs it.

`before` and `after` are called around the execution of four of Keras's modules
by the import hook of `torch_mesh_autoload`; `install_now` does the same for a
Keras that is loaded already. All are idempotent and never raise: what is
missing in an unknown Keras is reported once, by `complete`, at the first
`set_distribution`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

# All tests of this package that use Keras; and Keras's own, for releases.
CHECKED_VERSIONS = ("3.15.1", "3.16.0")  # the second as of 2026-08-22

CORE = "keras.src.backend.torch.core"
TRAINER = "keras.src.backend.torch.trainer"
DISTRIBUTION = "keras.src.distribution.distribution_lib"
BACKEND_LIB = "keras.src.backend.torch.distribution_lib"

# The modules that the import hook brackets with `before` and `after`.
HOOKED = (CORE, TRAINER, DISTRIBUTION, BACKEND_LIB)

# Where CORE is in a Keras whose backends are packages of ops.
_CORE_ELSEWHERE = "keras.src.backend.torch.ops.core"

_HERE = "torch_mesh.keras"
# Modules of replacements that need nothing but the standard library.
_LIGHT = ("checks",)
# The same module object under its full name, however it was loaded: there is
# one state.
if __name__ in sys.modules:
    sys.modules.setdefault(f"{_HERE}.install", sys.modules[__name__])


class Patch(NamedTuple):
    """One attribute of Keras that is replaced.

    Attributes:
        module: Name of the module that owns it.
        attribute: Dotted name inside the module.
        replacement: "module:function" in this package; the function takes the
            original (None if there is none) and returns the replacement.
        why: What it is for.
        new: True if Keras has no such attribute and need not have.
        also: Its name in a later Keras.
    """

    module: str
    attribute: str
    replacement: str
    why: str
    new: bool = False
    also: str = ""


# Applied as the modules load; the replacements are here or in `checks`: light.
_AT_IMPORT = (
    Patch(
        CORE,
        "Variable._initialize_layout",
        "install:_initialize_layout",
        "a variable asks the distribution for its layout, as on JAX",
        new=True,
    ),
    Patch(
        CORE,
        "Variable._initialize",
        "install:_initialize",
        "a value is placed before it is wrapped in a Parameter",
    ),
    Patch(
        CORE,
        "Variable._initialize_with_initializer",
        "install:_initialize_with_initializer",
        "a sharded weight is never whole on a device",
    ),
    Patch(
        CORE,
        "Variable.__repr__",
        "install:_variable_repr",
        "a variable on the mesh shows its layout",
    ),
    Patch(
        CORE,
        "scatter",
        "install:_scatter",
        "Keras 3.15.1 adds row by row, and waits for the device at each",
    ),
    Patch(
        CORE,
        "associative_scan",
        "install:_associative_scan",
        "Keras 3.15.1 makes its zeros on torch's default device",
    ),
    Patch(
        TRAINER,
        "TorchTrainer._should_torch_compile",
        "install:_should_torch_compile",
        "jit_compile has no code generator for the mesh",
        also="Trainer._use_torch_compile",
    ),
    Patch(
        CORE,
        "Variable.assign",
        "install:_assign",
        "a large value goes to the shards block by block",
    ),
    Patch(
        "keras.src.backend.common.global_state",
        "clear_session",
        "install:_clear_session",
        "it drops the distribution, so the default device goes with it",
    ),
    Patch(
        DISTRIBUTION,
        "set_distribution",
        "install:_set_distribution",
        "a distribution brings the mesh as the default device",
    ),
    Patch(
        DISTRIBUTION,
        "DataParallel._initialize_with_device_mesh",
        "checks:initialize_with_device_mesh",
        "Keras 3.15.1 raises TypeError where it means to warn of a mesh with "
        "several axes",
    ),
    Patch(
        DISTRIBUTION,
        "LayoutMap.__getitem__",
        "install:_layout_map_getitem",
        "patterns that Keras would drop silently get a meaning",
    ),
    Patch(
        DISTRIBUTION,
        "LayoutMap.__setitem__",
        "checks:layout_map_setitem",
        "a pattern that is no regular expression is refused at once, and "
        "remembered look-ups end when the map changes",
    ),
    Patch(
        DISTRIBUTION,
        "LayoutMap.__delitem__",
        "checks:layout_map_delitem",
        "remembered look-ups end when the map changes",
    ),
    Patch(
        DISTRIBUTION,
        "LayoutMap.__repr__",
        "checks:layout_map_repr",
        "a map shows its patterns and their layouts",
    ),
    Patch(
        DISTRIBUTION,
        "DeviceMesh.__init__",
        "checks:device_mesh_init",
        "an error about the number of devices says how to have as many",
    ),
    Patch(
        DISTRIBUTION,
        "DataParallel.__init__",
        "checks:data_parallel_init",
        "an empty list of devices is an error, and not all devices",
    ),
    Patch(
        DISTRIBUTION,
        "ModelParallel.__init__",
        "checks:model_parallel_init",
        "an axis that the mesh has not is refused at once",
    ),
    Patch(
        DISTRIBUTION,
        "ModelParallel.get_tensor_layout",
        "install:_get_tensor_layout",
        "what is computed under keras.device stays off the mesh",
    ),
    Patch(
        DISTRIBUTION,
        "LayoutMap._get_path_adapter",
        "install:_layout_map_adapter",
        "the map's view of PyTorch's parameter names",
        new=True,
    ),
)

# Applied at the first distribution, when all of Keras is there.
_AT_FIRST_DISTRIBUTION = (
    *(
        Patch(
            TRAINER,
            f"TorchTrainer.make_{kind}_function",
            f"trainer:make_{kind}_function",
            f"{kind} batches are sharded before {kind}_step",
            also=f"Trainer.make_{kind}_function",
        )
        for kind in ("train", "test", "predict")
    ),
    Patch(
        "keras.src.utils.summary_utils",
        "print_summary",
        "summary:print_summary",
        "a summary shows layouts and bytes per device",
    ),
    Patch(
        "keras.src.models.model",
        "Model.__call__",
        "trainer:call",
        "a model that was built elsewhere moves when it is called, too",
    ),
    *(
        Patch(
            "keras.src.saving.saving_lib",
            f"H5IOStore.__{verb}item__",
            f"saving:h5_{verb}item",
            "a large weight goes to its file and comes from it block by block",
        )
        for verb in ("set", "get")
    ),
    Patch(
        "keras.src.saving.saving_lib",
        "is_memory_sufficient",
        "saving:is_memory_sufficient",
        "an archive's weights do not stand in memory once more",
    ),
    Patch(
        TRAINER,
        "TorchEpochIterator._get_iterator",
        "trainer:get_iterator",
        "NumPy batches go from the host to the shards, never to replicas",
    ),
    Patch(
        "keras.src.utils.torch_utils",
        "TorchModuleWrapper._track_module_parameters",
        "torch_module:track_module_parameters",
        "a torch module's parameters are found by PyTorch's names",
    ),
    *(
        Patch(
            f"keras.src.optimizers.{module}",
            f"{name}.apply",
            "optimizer:apply",
            "gradients share a bucket before they are checked; slots follow",
        )
        for module, name in (
            ("base_optimizer", "BaseOptimizer"),
            ("loss_scale_optimizer", "LossScaleOptimizer"),
            ("multi_optimizer", "MultiOptimizer"),
        )
    ),
    *(
        Patch(
            "keras.src.backend.torch.rnn",
            f"_fallback_{kind}",
            f"recurrent:fallback_{kind}",
            "a layer whose batch alone is cut runs whole in each memory",
        )
        for kind in ("lstm", "gru")
    ),
    Patch(
        "keras.src.layers.rnn.rnn",
        "RNN.inner_loop",
        "recurrent:inner_loop",
        "so does a layer with a mask, which steps its cell",
    ),
    Patch(
        "keras.src.optimizers.loss_scale_optimizer",
        "LossScaleOptimizer.scale_loss",
        "optimizer:scale_loss",
        "the scale follows weights that have moved",
    ),
)

# Beside these, `keras.src.backend.distribution_lib` (None on torch) and
# `keras.src.backend.torch.distribution_lib` become `distribution_lib` of this
# package, and `keras.src.backend.torch.core.DEFAULT_DEVICE` is the mesh while
# a distribution is set.
PATCHES = _AT_IMPORT + _AT_FIRST_DISTRIBUTION

_originals: dict[tuple[str, str], Any] = {}
_missing: list[str] = []
_complete = False


# The import hook


def before(name: str) -> None:
    """Called before Keras's module `name` is executed.

    Args:
        name: One of `HOOKED`; others are ignored.
    """
    if name == DISTRIBUTION:
        _guarded(_supply_backend_lib)


def after(name: str, module: types.ModuleType) -> None:
    """Called after Keras's module `name` was executed.

    Args:
        name: One of `HOOKED`; others are ignored.
        module: The module.
    """
    if name == BACKEND_LIB:
        _guarded(_replace_backend_lib, module)
    elif name in (CORE, _CORE_ELSEWHERE):
        _guarded(_name_mesh_device, module)
        _guarded(_apply, _AT_IMPORT, CORE)
        _guarded(_apply, _AT_IMPORT, "keras.src.backend.common.global_state")
    elif name == TRAINER:
        _guarded(_apply, _AT_IMPORT, TRAINER)
    elif name == DISTRIBUTION:
        if (CORE, "Variable._initialize") not in _originals:
            _guarded(_find_core)
        _guarded(_apply, _AT_IMPORT, DISTRIBUTION)


def _find_core() -> None:
    after(CORE, core())


def core() -> Any:
    """Keras's module of torch variables and devices.

    Returns:
        `keras.src.backend.torch.core`, from where this Keras has it.

    Raises:
        ImportError: if it has none.
    """
    for name in (CORE, _CORE_ELSEWHERE):
        if name in sys.modules:
            return sys.modules[name]
    return importlib.import_module(CORE)


def install_now() -> None:
    """Patches a Keras that was loaded without the import hook.

    Does nothing if Keras is not loaded, or if the hook did its work.
    """
    if DISTRIBUTION not in sys.modules or not _on_torch():
        return
    if (DISTRIBUTION, "set_distribution") in _originals:
        return
    before(DISTRIBUTION)
    after(DISTRIBUTION, sys.modules[DISTRIBUTION])
    if TRAINER in sys.modules:
        after(TRAINER, sys.modules[TRAINER])
    sys.modules[DISTRIBUTION].distribution_lib = (  # type: ignore[attr-defined]
        sys.modules["keras.src.backend"].distribution_lib
    )
    for module, attribute in list(_originals):
        if "." not in attribute:
            rebind(
                _originals[module, attribute],
                getattr(importlib.import_module(module), attribute),
            )


def complete() -> None:
    """Applies the patches that wait for the first distribution.

    Warns once, naming what is missing, if this Keras is not as expected.
    """
    global _complete
    if _complete:
        return
    _complete = True
    for module in dict.fromkeys(p.module for p in _AT_FIRST_DISTRIBUTION):
        _guarded(_apply, _AT_FIRST_DISTRIBUTION, module)
    if _missing:
        import keras

        warnings.warn(
            f"torch_mesh: Keras {keras.__version__} lacks what torch-mesh "
            f"builds on.\n  missing  {', '.join(_missing)}\n"
            f"  checked  Keras {', '.join(CHECKED_VERSIONS)}\n"
            "Hint: install a checked version, or expect these parts to run "
            "as plain Keras. [unknown-keras]",
            stacklevel=2,
        )


# How a patch is applied


def _guarded(function: Callable[..., None], *args: Any) -> None:
    """Runs `function`; an exception becomes one line of the report."""
    try:
        function(*args)
    except Exception as error:  # a broken patch must not break `import keras`
        _missing.append(f"{args[-1] if args else ''} ({error!r})".strip())


def _on_torch() -> bool:
    config = sys.modules.get("keras.src.backend.config")
    return config is not None and config.backend() == "torch"


def _apply(patches: tuple[Patch, ...], module_name: str) -> None:
    """Applies those of `patches` that belong to one module."""
    if not _on_torch():
        return
    if module_name == CORE:
        module = core()
    else:
        module = importlib.import_module(module_name)
    for patch in patches:
        key = (patch.module, patch.attribute)
        if patch.module != module_name or key in _originals:
            continue
        owner, name, original = _find(module, patch.attribute)
        if original is None and patch.also:
            owner, name, original = _find(module, patch.also)
        if owner is None or (original is None and not patch.new):
            _missing.append(f"{patch.module}.{patch.attribute}")
            continue
        _originals[key] = original
        setattr(owner, name, _replacement(patch)(original))


def _find(module: Any, attribute: str) -> tuple[Any, str, Any]:
    """The owner of an attribute, its name there and its value, or None."""
    *owners, name = attribute.split(".")
    owner = module
    for owner_name in owners:
        owner = getattr(owner, owner_name, None)
    return owner, name, getattr(owner, name, None)


def _replacement(patch: Patch) -> Callable[[Any], Any]:
    module_name, _, function = patch.replacement.partition(":")
    if module_name == "install":
        found: Callable[[Any], Any] = globals()[function]
        return found
    if module_name in _LIGHT:
        return getattr(_light(module_name), function)
    module = importlib.import_module(f"{_HERE}.{module_name}")
    return getattr(module, function)


def rebind(original: Any, replacement: Any) -> None:
    """Replaces a function where Keras's modules hold it by value."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "keras":
            continue
        for attribute, value in list(vars(module).items()):
            if value is original:
                setattr(module, attribute, replacement)


def _light(name: str) -> types.ModuleType:
    """Loads a module of this package without its parents.

    Importing `torch_mesh.keras.x` runs `torch_mesh`, which loads the C++
    library; the modules that Keras needs at its import do without.
    """
    full_name = f"{_HERE}.{name}"
    if full_name in sys.modules:
        return sys.modules[full_name]
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    spec = importlib.util.spec_from_file_location(full_name, f"{path}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full_name]
        raise
    return module


# Keras's modules


def _supply_backend_lib() -> None:
    """Gives Keras's torch backend its `distribution_lib`."""
    if not _on_torch():
        return
    backend: Any = sys.modules["keras.src.backend"]
    ours = _light("distribution_lib")
    backend.distribution_lib = ours
    package = sys.modules.get("keras.src.backend.torch")
    if package is not None:
        package.distribution_lib = ours  # type: ignore[attr-defined]
    sys.modules[BACKEND_LIB] = ours


def _replace_backend_lib(module: types.ModuleType) -> None:
    """Puts ours in the place of a `distribution_lib` that Keras brings.

    Names that only Keras's module has stay reachable, for its own importers.
    But for the mode in which it promotes tensors to DTensors: a Python call
    for each op of the process, and nothing here is a DTensor.
    """
    if not _on_torch():
        return
    ours = _light("distribution_lib")
    for name, value in vars(module).items():
        if not name.startswith("__") and "dtensor_promotion" not in name:
            vars(ours).setdefault(name, value)
    sys.modules[BACKEND_LIB] = ours


def _name_mesh_device(module: types.ModuleType) -> None:
    """Honours KERAS_TORCH_DEVICE=mesh, which needs the device at once."""
    if not _on_torch():
        return
    names = _light("device_name")
    if names.names_mesh(getattr(module, "DEFAULT_DEVICE", "")):
        importlib.import_module("torch_mesh.device").register()
        kind = sys.modules["torch_mesh"].list_devices()[0].partition(":")[0]
        module.DEFAULT_DEVICE = names.MeshDevice(  # type: ignore[attr-defined]
            "cuda" if kind == "gpu" else kind
        )


# The light replacements


def _distribution_in_force() -> bool:
    """Whether a distribution is set; false before any ever was."""
    active = sys.modules.get(f"{_HERE}.active")
    return active is not None and active.current() is not None


def _mesh_is_default() -> bool:
    """Whether new tensors of Keras go to the mesh."""
    on_mesh: bool = _light("device_name").names_mesh(core().get_device())
    return on_mesh


def _initialize_layout(original: Any) -> Any:
    def _initialize_layout(self: Any) -> None:
        if _distribution_in_force():
            from torch_mesh.keras import variable

            variable.initialize_layout(self)
        elif original is not None:
            original(self)

    return _initialize_layout


def _initialize(original: Any) -> Any:
    return _placing("initialize", original)


def _initialize_with_initializer(original: Any) -> Any:
    return _placing("initialize_with_initializer", original)


def _placing(name: str, original: Any) -> Any:
    # Ours, in `variable`, where the variable gets a layout.
    @functools.wraps(original)
    def method(self: Any, value: Any) -> None:
        if self._layout is None and not _distribution_in_force():
            original(self, value)
        else:
            from torch_mesh.keras import variable

            getattr(variable, name)(self, value, original)

    return method


def _variable_repr(original: Any) -> Any:
    @functools.wraps(original)
    def __repr__(self: Any) -> str:
        text: str = original(self)
        value = self._value if hasattr(self, "_value") else None
        if value is None or value.device.type != "mesh":
            return text
        from torch_mesh.keras.describe import repr_with_layout

        return repr_with_layout(self, text)

    return __repr__


def _get_tensor_layout(original: Any) -> Any:
    @functools.wraps(original)
    def get_tensor_layout(self: Any, path: str) -> Any:
        # Asked by each layer, for its output.
        if _distribution_in_force() and not _mesh_is_default():
            return None
        return original(self, path)

    return get_tensor_layout


def _scatter(original: Any) -> Any:
    return _indexing("scatter", original)


def _associative_scan(original: Any) -> Any:
    return _indexing("associative_scan", original)


def _indexing(name: str, original: Any) -> Any:
    # Ours, in `indexing`, while the mesh is Keras's device.
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        if not _mesh_is_default():
            return original(*args, **kwargs)
        from torch_mesh.keras import indexing

        return getattr(indexing, name)(original, *args, **kwargs)

    return function


def _should_torch_compile(original: Any) -> Any:
    @functools.wraps(original)
    def _should_torch_compile(self: Any) -> Any:
        if not self.jit_compile or not (
            _distribution_in_force() or _mesh_is_default()
        ):
            return original(self)
        from torch_mesh.keras import trainer

        return trainer.tell_eager(self)

    return _should_torch_compile


def _assign(original: Any) -> Any:
    @functools.wraps(original)
    def assign(self: Any, value: Any) -> Any:
        saving = sys.modules.get(f"{_HERE}.saving")
        if saving is None or self._value is None:
            return original(self, value)
        return saving.assign(self, value, original)

    return assign


def _clear_session(original: Any) -> Any:
    @functools.wraps(original)
    def clear_session(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        active = sys.modules.get(f"{_HERE}.active")
        if active is not None:
            active.switch(None)
        return result

    return clear_session


def _set_distribution(original: Any) -> Any:
    @functools.wraps(original)
    def set_distribution(value: Any) -> None:
        if value is not None or f"{_HERE}.active" in sys.modules:
            if value is not None:
                _light("checks").check_distribution(value)
            from torch_mesh.keras import active

            active.switch(value)
        original(value)

    return set_distribution


def _layout_map_getitem(original: Any) -> Any:
    @functools.wraps(original)
    def __getitem__(self: Any, key: str) -> Any:
        lookups = self.__dict__.get("_torch_mesh_lookups")
        if lookups is None:
            from torch_mesh.keras import layout_map

            lookups = layout_map.lookups_of(self)
        return lookups.get(key)

    return __getitem__


def _layout_map_adapter(original: Any) -> Any:
    def _get_path_adapter(self: Any) -> Any:
        """The map's `torch_mesh.keras.TorchPathAdapter`."""
        from torch_mesh.keras import layout_map

        return layout_map.lookups_of(self).adapter

    return _get_path_adapter

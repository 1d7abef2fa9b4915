"""Makes torch_mesh available to Keras when Keras loads its torch backend.

torch calls `install` at the end of `import torch` (entry point group
`torch.backends`). All it does is put one finder on `sys.meta_path`, which looks
for the few modules of Keras named below and lets `torch_mesh.keras.install` act
right before and right after each of them is executed. Nothing of torch_mesh or
Keras is imported before that. And `torch.load(weights_only=True)` is told of
the function that a pickle of `torch.device("mesh")` calls.

Nothing here raises: an error would make `import torch` fail for everyone, or
Keras fail for those who use no distribution. It becomes a warning, and Keras is
left as it is.
"""

import importlib
import importlib.machinery
import re
import sys
import warnings
import weakref

_DISTRIBUTION_LIB = "keras.src.backend.torch.distribution_lib"
_WATCHED = frozenset(
    {
        "keras.src.backend.torch.core",
        "keras.src.backend.torch.trainer",
        "keras.src.distribution.distribution_lib",
        _DISTRIBUTION_LIB,
    }
)


def install():
    """Puts the finder on `sys.meta_path`, once; names `mesh_device` safe."""
    if not any(map(_is_one_of_us, sys.meta_path)):
        # In front: the finders behind it would find Keras's modules first.
        sys.meta_path.insert(0, _Finder())
    serialization = sys.modules.get("torch.serialization")
    add_safe_globals = getattr(serialization, "add_safe_globals", None)
    if add_safe_globals is not None:
        add_safe_globals([mesh_device])


def mesh_device(index=None):
    """What a pickle of `torch.device("mesh")` calls.

    Args:
        index: of the device, or None.

    Returns:
        A `torch.device`, in a process that may not have known its name.
    """
    import torch

    import torch_mesh.registration

    torch_mesh.registration.register()
    return torch.device("mesh", *(() if index is None else (index,)))


class _Finder:
    """Finds the watched modules as the other finders do, with hooks around."""

    def find_spec(self, name, path=None, target=None):
        if name not in _WATCHED or not _keras_runs_on_torch():
            return None
        spec = self._find_elsewhere(name, path, target)
        if spec is None and name == _DISTRIBUTION_LIB:
            return _alias_spec(name, "torch_mesh.keras.distribution_lib")
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _HookedLoader(spec.loader)
        return spec

    def _find_elsewhere(self, name, path, target):
        for finder in sys.meta_path:
            if _is_one_of_us(finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


def _is_one_of_us(finder):
    """Whether a finder is ours; of this module loaded anew, another class."""
    kind = type(finder)
    return (kind.__module__, kind.__name__) == (__name__, _Finder.__name__)


class _HookedLoader:
    """Loads a module as `loader` does, and calls the hooks around it."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        name = module.__spec__.name
        # The module is to see its own loader: inspect and linecache ask it for
        # source text.
        module.__spec__.loader = module.__loader__ = self._loader
        is_reload = _is_loaded(name, module)
        _call_hook("before", name)
        self._loader.exec_module(module)
        if is_reload:
            _call_hook("again", name)
        _call_hook("after", name, module)


_loaded: dict[str, weakref.ref] = {}  # the watched modules, as they are now


def _is_loaded(name, module):
    """Whether a module is loaded once more, as `importlib.reload` does.

    `keras.config.set_backend` drops the modules of Keras and loads others: then
    what was made for the earlier ones is dropped, and made anew.
    """
    earlier = _loaded.get(name)
    if earlier is not None and earlier() is module:
        return True
    if earlier is not None:
        _loaded.clear()
        for ours in list(sys.modules):
            if f"{ours}.".startswith("torch_mesh.keras."):
                del sys.modules[ours]
    _loaded[name] = weakref.ref(module)
    return False


class _AliasLoader:
    """Gives a module that exists under another name."""

    def __init__(self, module):
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec):
        return self._module

    def exec_module(self, module):
        # The import system has put the alias's spec into the module.
        module.__spec__ = self._spec


def _keras_runs_on_torch():
    config = sys.modules.get("keras.src.backend.config")
    try:
        return config is not None and config.backend() == "torch"
    except Exception:
        return False


def _alias_spec(name, target):
    try:
        loader = _AliasLoader(importlib.import_module(target))
    except Exception as error:
        _warn(name, error)
        return None
    return importlib.machinery.ModuleSpec(name, loader)  # type: ignore[arg-type]


_calling_hooks = False


def is_calling_hooks():
    """Whether torch_mesh is imported on Keras's behalf, by a hook."""
    return _calling_hooks


def _call_hook(hook, *args):
    global _calling_hooks
    outer, _calling_hooks = _calling_hooks, True
    try:
        hooks = importlib.import_module("torch_mesh.keras.install")
        getattr(hooks, hook)(*args)
    except Exception as error:
        _warn(args[0], error)
    finally:
        _calling_hooks = outer
        _forget_unregistered()


def _forget_unregistered():
    """Lets a later `import torch_mesh` register the device."""
    package = sys.modules.get("torch_mesh")
    is_for_hooks = getattr(package, "is_for_hooks", None)
    if is_for_hooks is not None and not _calling_hooks and is_for_hooks():
        del sys.modules["torch_mesh"]


_warned: set[str] = set()


def _warn(name, error):
    """Says once what an error is, also where warnings are errors."""
    told = f"{type(error).__name__}: {error}"
    if told in _warned:
        return
    _warned.add(told)
    # An error of ours says itself what to do.
    is_ours = re.search(r"\[[a-z0-9-]+\]$", told)
    hint = "do what it says" if is_ours else "report this text"
    text = (
        f"torch_mesh: {name} is left as Keras made it.\n"
        f"  {told}\n"
        f"Hint: {hint}, or uninstall torch-mesh. [keras-hook]"
    )
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        print(text, file=sys.stderr)

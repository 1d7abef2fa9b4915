"""Names that torch promises nobody, as sources use them.

What is reached through a value (`x._values`) is not seen: the source does not
say whose it is.
"""

import ast
import re

_ASKS = {"getattr", "hasattr", "setattr"}
_CPP = re.compile(
    r"\bat::(?:impl|native|meta)::\w+|\bpyobj_slot\b|\bTorchDispatchModeTLS\b"
)


def files(root):
    """The sources of the package and of the engine."""
    python = sorted((root / "python").rglob("*.py"))
    engine = sorted((root / "src").rglob("*.cpp"))
    return [*python, *engine, *sorted((root / "src").rglob("*.h"))]


def of_file(path):
    read = of_python if path.suffix == ".py" else of_cpp
    return read(path.read_text())


def of_cpp(text):
    """Of libtorch's inner namespaces."""
    code = re.sub(r"//.*", "", text)
    return set(_CPP.findall(code))


def of_python(text):
    """Parts of torch's names that begin with one underscore, or are of `_C`."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        for name in _names(node):
            found |= _private_parts(name)
    return found


def _names(node):
    """The dotted names of torch that a node has."""
    if isinstance(node, ast.Attribute):
        yield ast.unparse(node)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            yield f"{node.module}.{alias.name}"
    elif isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _ASKS
        and isinstance(node.args[1], ast.Constant)
    ):
        # Of whatever it is asked: most have a name of their own.
        yield f"torch.{node.args[1].value}"


def _private_parts(name):
    if not re.fullmatch(r"torch(\.\w+)+", name):
        return set()
    parts = name.split(".")
    return {
        part
        for before, part in zip(parts, parts[1:], strict=False)
        if part != "_C" and (before == "_C" or re.match(r"_(?!_)", part))
    }

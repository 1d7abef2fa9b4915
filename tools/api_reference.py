"""Writes docs/api.md from the docstrings of the Python package.

Reads the sources with griffe and imports nothing of the package, so it runs
where torch-mesh is not built. `--check` writes nothing and fails if the page is
not what the sources say.
"""

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
PAGE = Path("docs/api.md")

HEAD = """\
# Python reference

Made from the docstrings by `tools/api_reference.py`; change those. For C++ the
headers in [include/torch_mesh](../include/torch_mesh) are the reference, and
[cpp.md](cpp.md) the guide.

Sizes are in elements and memory in bytes where nothing else is said; dims,
devices and processes count from 0. Errors end with a code that
[errors.md](errors.md) explains.
"""


def load(root: Path) -> griffe.Module:
    """The package, read and not imported."""
    package = griffe.load(
        "torch_mesh",
        search_paths=[str(root / "python")],
        docstring_parser="google",
        allow_inspection=False,
    )
    assert isinstance(package, griffe.Module)
    return package


def public(package: griffe.Module) -> dict[str, dict[str, griffe.Object]]:
    """Module name to its public names and what they stand for."""
    # torch_mesh loads its parts at first use; this table says what from where.
    home = ast.literal_eval(str(package["_HOME"].value))
    keras = package["keras"]
    exported = [str(name).strip("'\"") for name in keras.exports or ()]
    return {
        "torch_mesh": {
            name: package[f"{home[name]}.{name}"] for name in _ordered(home)
        },
        "torch_mesh.keras": {
            # What is imported, not the module of the same name.
            name: package.modules_collection[keras.imports[name]]
            for name in _ordered(exported)
        },
    }


def page(root: Path) -> str:
    """The text of docs/api.md."""
    modules = public(load(root))
    lines = [HEAD]
    seen: dict[str, int] = {}
    for module, names in modules.items():
        lines += [f"| `{module}` | |", "|---|---|"]
        for name, thing in names.items():
            anchor = _title(module, name).lower().replace(".", "")
            # GitHub numbers headings that differ by case only.
            count = seen[anchor] = seen.get(anchor, -1) + 1
            anchor += f"-{count}" if count else ""
            lines.append(f"| [{name}](#{anchor}) | {_first_line(thing)} |")
        lines.append("")
    for module, names in modules.items():
        lines += [f"## {module}", ""]
        for name, thing in names.items():
            lines += _entry(module, name, thing)
    return "\n".join(lines).rstrip() + "\n"


def _ordered(names: Iterable[str]) -> list[str]:
    """Classes and functions by name, whatever their case."""
    return sorted(names, key=lambda name: (name.lower(), name))


def _title(module: str, name: str) -> str:
    """A heading that no other entry has: GitHub makes the anchor of it."""
    return name if module == "torch_mesh" else f"keras.{name}"


def _first_line(thing: griffe.Object) -> str:
    text = thing.docstring.value if thing.docstring else ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def _entry(module: str, name: str, thing: griffe.Object) -> Iterator[str]:
    source = Path(thing.filepath).relative_to(ROOT).as_posix()
    yield f"### {_title(module, name)}"
    yield ""
    if isinstance(thing, griffe.Module):
        yield f"Module `{thing.path}`, [source](../{source})."
    else:
        yield f"`{_call(thing)}`, [source](../{source})"
    yield ""
    yield from _sections(thing)
    if isinstance(thing, griffe.Class):
        for member in thing.members.values():
            if not _is_documented(member):
                continue
            yield f"#### {name}.{member.name}"
            yield ""
            yield f"`{_call(member)}`"
            yield ""
            yield from _sections(member)


def _is_documented(member) -> bool:
    hidden = member.name.startswith("_") or member.is_alias
    return not hidden and member.docstring is not None


def _call(thing: griffe.Object) -> str:
    """How a thing is written in a program, with the type of what it gives."""
    if isinstance(thing, griffe.Attribute):
        return f"{thing.name}: {thing.annotation}"
    gives = ""
    if isinstance(thing, griffe.Class):
        init = thing.members.get("__init__")
        if init is None:
            return thing.name
        parameters = init.parameters
    else:
        parameters = thing.parameters
        gives = f" -> {thing.returns}"
    words = []
    keyword_only = False
    for parameter in parameters:
        if parameter.name in ("self", "cls"):
            continue
        kind = parameter.kind
        star = {
            griffe.ParameterKind.var_positional: "*",
            griffe.ParameterKind.var_keyword: "**",
        }.get(kind, "")
        if kind is griffe.ParameterKind.keyword_only and not keyword_only:
            keyword_only = True
            if not any(word.startswith("*") for word in words):
                words.append("*")
        default = "" if star or parameter.default is None else "="
        words.append(
            f"{star}{parameter.name}{default}"
            + (str(parameter.default) if default else "")
        )
    return f"{thing.name}({', '.join(words)}){gives}"


def _sections(thing: griffe.Object) -> Iterator[str]:
    if thing.docstring is None:
        return
    # A class's docstring describes the arguments of its constructor.
    for section in thing.docstring.parse("google"):
        kind = section.kind
        if kind is griffe.DocstringSectionKind.text:
            yield from _paragraphs(section.value)
        elif kind is griffe.DocstringSectionKind.parameters:
            yield from _list("Arguments", section.value)
        elif kind is griffe.DocstringSectionKind.attributes:
            yield from _list("Attributes", section.value)
        elif kind is griffe.DocstringSectionKind.returns:
            yield from _plain_list("Returns", section.value)
        elif kind is griffe.DocstringSectionKind.yields:
            yield from _plain_list("Yields", section.value)
        elif kind is griffe.DocstringSectionKind.raises:
            yield "Raises"
            yield ""
            for error in section.value:
                yield f"- `{error.annotation}`: {_flat(error.description)}"
            yield ""
        elif kind is griffe.DocstringSectionKind.admonition:
            yield section.title or "Example"
            yield ""
            yield from _code(section.value.description)
        else:
            raise SystemExit(f"{thing.path}: a section of kind {kind}")


def _paragraphs(text: str) -> Iterator[str]:
    """Text, with its indented blocks and prompts as code."""
    for part in text.split("\n\n"):
        if part.lstrip().startswith(">>>"):
            yield from _code(part)
        else:
            yield part
            yield ""


def _code(text: str) -> Iterator[str]:
    yield "```pycon"
    yield text.strip("\n")
    yield "```"
    yield ""


def _list(title: str, items) -> Iterator[str]:
    yield title
    yield ""
    for item in items:
        kind = f" (`{item.annotation}`)" if item.annotation else ""
        yield f"- `{item.name}`{kind}: {_flat(item.description)}"
    yield ""


def _plain_list(title: str, items) -> Iterator[str]:
    yield f"{title}: " + " ".join(_flat(item.description) for item in items)
    yield ""


def _flat(text: str) -> str:
    return " ".join(text.split())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = page(ROOT)
    path = ROOT / PAGE
    if not parser.parse_args().check:
        path.write_text(text, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE} is not what the docstrings say: run tools/api_reference.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())

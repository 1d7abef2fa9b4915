"""Every block of code in README and docs is run, or is part of what is.

python      run. A block that begins with an import begins a program; the blocks
            after it on the page go on with it. One that begins with the name of
            a file, "# train.py", is run as two processes.
text        right behind python: what that block prints.
pycon       docs/api.md: run by test_api_reference.py.
cpp, cmake  lines of examples/cpp, in their order; test_cpp_example.py builds
            and runs them.
sh          of examples/cpp/README.md: run by test_cpp_example.py.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "cpp" / "README.md",
]
CPP = [
    *(ROOT / "examples" / "cpp").glob("*.cpp"),
    ROOT / "examples" / "cpp" / "CMakeLists.txt",
]
# Pages whose blocks a test of their own runs.
ELSEWHERE = {"docs/errors.md": "tests/python/test_error_codes.py"}


class Block(NamedTuple):
    """One fenced block of a page."""

    page: str
    line: int  # of the fence
    kind: str
    text: str
    follows: bool  # whether only blank lines are between it and the one before


def blocks_of(path):
    page = path.relative_to(ROOT).as_posix()
    text = path.read_text()
    end = -1
    for match in re.finditer(
        r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    ):
        between = text[end : match.start()] if end >= 0 else "text"
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2], not between.strip())
        end = match.end()


BLOCKS = [block for path in PAGES for block in blocks_of(path)]


def programs():
    """Lists of `(block, what it is to print or None)` by a name."""
    found = {}
    current = None
    before = None
    for block in BLOCKS:
        if block.page in ELSEWHERE:
            continue
        if re.match(r"# \w+\.py\n", block.text):
            continue
        if block.kind == "python":
            fresh = before is None or before.page != block.page
            if fresh or re.match(r"import |from ", block.text):
                current = found.setdefault(f"{block.page}:{block.line}", [])
            current.append((block, None))
            before = block
        elif block.kind == "text" and block.follows and before is not None:
            python, _ = current[-1]
            if python.page == block.page and python.line < block.line:
                current[-1] = (python, block.text)
    return found


PROGRAMS = programs()

RUNNER = """
import contextlib, io, json, sys
names = {"__name__": "__main__"}
for line, text in json.loads(sys.stdin.read()):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\\n" * line + text, sys.argv[1], "exec"), names)
    print("@" + json.dumps(printed.getvalue()))
"""


def test_pages_with_programs_are_found():
    pages = {name.partition(":")[0] for name in PROGRAMS}
    assert {"README.md", "docs/torch.md", "docs/inspect.md"} <= pages


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_and_prints_what_the_page_says(name, tmp_path):
    # A file, for those who read the source of what they run.
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    program = PROGRAMS[name]
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", runner, name],
        input=json.dumps([(block.line, block.text) for block, _ in program]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "TORCH_MESH_CPU_DEVICES": "8",
        },
    )
    assert result.returncode == 0, result.stderr
    printed = [
        json.loads(line[1:])
        for line in result.stdout.splitlines()
        if line.startswith("@")
    ]
    assert len(printed) == len(program)
    for (block, expected), actual in zip(program, printed, strict=True):
        if expected is not None:
            assert actual == expected, f"{block.page}:{block.line}"


@pytest.mark.parametrize(
    "block",
    [b for b in BLOCKS if re.match(r"# \w+\.py\n", b.text)],
    ids=lambda b: f"{b.page}:{b.line}",
)
def test_a_file_runs_as_two_processes(block, tmp_path):
    text = block.text
    sockets = []
    for address in re.findall(r"127\.0\.0\.1:\d+", text):
        # The ports of the page may be taken on this machine.
        sockets.append(socket.socket())
        sockets[-1].bind(("127.0.0.1", 0))
        port = sockets[-1].getsockname()[1]
        text = text.replace(address, f"127.0.0.1:{port}")
    for one in sockets:
        one.close()
    file = tmp_path / "program.py"
    file.write_text(text)
    processes = [
        subprocess.Popen(
            [sys.executable, file, str(number)],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "KERAS_BACKEND": "torch",
                "OMP_NUM_THREADS": "1",
            },
            cwd=tmp_path,
        )
        for number in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors


def lines_of(text):
    """Lines without their indent and comments, empty ones left out."""
    bare = (re.sub(r" *//.*", "", line).strip() for line in text.splitlines())
    return [line for line in bare if line]


def stand_in_order(wanted, lines):
    rest = iter(lines)
    return all(line in rest for line in wanted)


@pytest.mark.parametrize(
    "block",
    [b for b in BLOCKS if b.kind in ("cpp", "cmake")],
    ids=lambda b: f"{b.page}:{b.line}",
)
def test_cpp_is_part_of_an_example(block):
    if block.page in ELSEWHERE:
        pytest.skip(f"see {ELSEWHERE[block.page]}")
    assert any(
        stand_in_order(lines_of(block.text), lines_of(path.read_text()))
        for path in CPP
    ), block.text


def test_each_kind_of_block_has_its_test():
    known = {"python", "text", "cpp", "cmake", "sh", "", "pycon"}
    assert {block.kind for block in BLOCKS} <= known
    shells = {b.page for b in BLOCKS if b.kind == "sh"}
    assert shells <= {"examples/cpp/README.md"}
    prompts = {b.page for b in BLOCKS if b.kind == "pycon"}
    assert prompts <= {"docs/api.md"}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)]+)\)", path.read_text())
    inside = [link for link in links if "://" not in link]
    assert [x for x in inside if not is_there(path, x)] == []


def is_there(page, link):
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists():
        return False
    if not anchor:
        return True
    heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
    anchors = []
    for head in heads:
        slug = re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")
        anchors.append(f"{slug}-{n}" if (n := anchors.count(slug)) else slug)
    return anchor in anchors

"""Makes examples/tour.ipynb from examples/tour.py, and runs it.

The source is a Python program in cells: `# %%` begins one of code, and
`# %% [markdown]` one of text, written as comments. The notebook is stored with
what its cells gave, so that it can be read without being run.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "tour.py"
NOTEBOOK = ROOT / "examples" / "tour.ipynb"


def build(source: str) -> nbformat.NotebookNode:
    """The notebook of a program in cells, without outputs."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    head, *cells = re.split(r"^# %%(.*)\n", source, flags=re.MULTILINE)
    if head.strip():
        raise ValueError(f"text before the first cell: {head!r}")
    for number, (kind, text) in enumerate(
        zip(cells[::2], cells[1::2], strict=True)
    ):
        text = text.strip("\n")
        if kind.strip() == "[markdown]":
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
            cell = nbformat.v4.new_markdown_cell(text)
        else:
            cell = nbformat.v4.new_code_cell(text)
        cell.id = f"cell-{number}"
        notebook.cells.append(cell)
    return notebook


def execute(notebook: nbformat.NotebookNode, timeout_s: int = 300) -> None:
    """Runs all cells in a kernel of their own; outputs are put in place.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell raises.
    """
    # Without times: they would differ from run to run.
    NotebookClient(
        notebook, timeout=timeout_s, kernel_name="python3", record_timing=False
    ).execute()
    # The version of the Python that ran it says nothing to the reader.
    notebook.metadata.pop("language_info", None)


def main() -> int:
    notebook = build(SOURCE.read_text(encoding="utf-8"))
    execute(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, NOTEBOOK)
    return 0


if __name__ == "__main__":
    sys.exit(main())

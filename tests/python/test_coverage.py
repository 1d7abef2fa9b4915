"""The tool that measures which ops keep a sharded batch."""

import importlib.util
import pathlib
import types

import pytest
import torch

import torch_mesh as tm

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "coverage.py"


@pytest.fixture(scope="module")
def tool():
    # Not by name: a well-known package has the same one.
    spec = importlib.util.spec_from_file_location("mesh_coverage", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call_of(tool, f, *tensors, **named):
    info = types.SimpleNamespace(op=f)
    first, *rest = tensors
    sample = types.SimpleNamespace(input=first, args=rest, kwargs=named)
    return tool.Call(info, sample)


def test_a_batch_is_found_by_plain_torch(tool):
    x, w = torch.randn(4, 3), torch.randn(3, 2)
    assert tool.batch_of(call_of(tool, torch.mm, x, w)) == ((0,), True)
    assert tool.batch_of(call_of(tool, torch.add, x, x * 2)) == ((0, 1), True)
    # The first rows of a running sum are those of the first rows; not the last.
    assert tool.batch_of(call_of(tool, torch.cumsum, x, dim=0)) == (
        (0,),
        False,
    )
    assert tool.batch_of(call_of(tool, torch.softmax, x, dim=0)) is None
    assert tool.batch_of(call_of(tool, torch.sum, x)) is None


def measured(tool, f, *tensors, placement="S0", **named):
    learned = [t.requires_grad_() for t in tensors]
    call = call_of(tool, f, *learned, **named)
    mesh = tm.Mesh({"data": 2})
    return tool.measure(call, (0,), placement, mesh)


def test_what_happens_is_said(tool):
    x, w = torch.randn(4, 3), torch.randn(3, 2)
    assert measured(tool, torch.mm, x, w) == (("sharded", "sharded"), set())
    verdict, lacking = measured(tool, torch.cumsum, x, dim=0)
    assert verdict[0] == "moved" and not lacking
    verdict, _ = measured(tool, torch.cumsum, x, dim=1)
    assert verdict == ("sharded", "sharded")
    library = torch.library.Library("mesh_coverage", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CPU")
    twice = torch.ops.mesh_coverage.twice
    verdict, lacking = measured(tool, twice, x)
    assert verdict[0] == "replicas"
    assert lacking == {"mesh_coverage::twice"}


def test_a_figure_that_falls_is_named(tool):
    def row(name, family, forward):
        found = dict.fromkeys(tool.LAYOUTS, (forward, "sharded"))
        return tool.Row(name, family, "0", found, set())

    rows = [row("mm", "products", "sharded"), row("mv", "products", "moved")]
    text = tool.report(rows)
    recorded = tool.recorded_figures(text)
    assert recorded == {"all": (1, 2), "products": (1, 2)}
    assert tool.fallen(recorded, tool.figures_of(rows)) == []
    worse = [row("mm", "products", "moved"), row("mv", "products", "moved")]
    assert tool.fallen(recorded, tool.figures_of(worse)) == [
        "all: 0 of 2 stay, recorded 1 of 2",
        "products: 0 of 2 stay, recorded 1 of 2",
    ]


def test_the_recorded_figure_is_at_least_85_percent(tool):
    figures = tool.recorded_figures(tool.REPORT.read_text())
    stay, count = figures["all"]
    assert count > 500
    assert stay / count >= 0.85

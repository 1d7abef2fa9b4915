"""Processes that go different ways end in an error, and never in a number."""

import pytest
from tests.processes import spawn

DEVICES = {"TORCH_MESH_CPU_DEVICES": "2"}

DIVERGE = """
x = torch.arange(8.0) + 1
mesh = tm.Mesh({{"data": 4}})
s, r = (tm.distribute(x, mesh, (p,)) for p in ("S0", "R"))
try:
    print("number", {expression})
except RuntimeError as error:
    print(error)
"""


def ended(expression):
    """What each of two processes printed."""
    return [
        out + err
        for _, out, err in spawn.run(
            DIVERGE.format(expression=expression),
            start=spawn.PLAIN_START,
            preamble=spawn.PLAIN,
            environment=lambda i: DEVICES,
        )
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "(s * (me + 2)).sum().item()",
        "torch.add(r, r, alpha=me + 1).sum().item()",
        "s.clone().fill_(me).sum().item()",
        "(r[me : me + 4] * 1).sum().item()",
        "(s.float() if me else s.double()).sum().item()",
        "(tm.redistribute(r, ('S0',)) if me else r).exp().sum().item()",
        "torch.nn.functional.dropout(s, 0.4 + 0.2 * me).sum().item()",
        "(torch.manual_seed(me), torch.rand_like(s).sum().item())[1]",
        "((torch.rand(3) if me else 0), s.clone().normal_().sum().item())[1]",
        "(tm.use(mesh), torch.manual_seed(me), torch.rand(8, device='mesh')"
        ".sum().item())[2]",
        "(tm.use(mesh), torch.full((8,), me + 1.0, device='mesh').sum().item())"
        "[1]",
    ],
)
def test_no_number_is_seen(expression):
    outputs = ended(expression)
    for text in outputs:
        assert not text.startswith("number"), text
    assert any("[processes-differ]" in text for text in outputs), outputs


def test_who_is_not_told_by_a_message_is_told_by_the_job():
    """A sum's one chunk goes to process 0, which has nothing to send."""
    expression = "s.sum().item() if me == 0 else s.amax().item()"
    outputs = ended(expression)
    assert "[processes-differ]" in outputs[0], outputs
    for text in outputs:
        assert any(
            code in text
            for code in ("[processes-differ]", "[peer-failed]", "[peer-lost]")
        ), text


def test_saved_bytes_are_of_the_whole():
    spawn.check(
        """
        import io, pickle
        x = torch.arange(8.0) + 1
        mesh = tm.Mesh({"data": 4})
        for placement in ("S0", "R"):
            t = tm.distribute(x, mesh, (placement,))
            file = io.BytesIO()
            torch.save({"w": t}, file)
            file.seek(0)
            loaded = torch.load(file, map_location="cpu")["w"]
            assert torch.equal(loaded, x), loaded
            again = pickle.loads(pickle.dumps(t))
            assert torch.equal(tm.full(again), x), tm.full(again)
            storage = t.untyped_storage().cpu()
            plain = torch.empty(0).set_(storage, 0, (8,))
            assert torch.equal(plain, x), plain
        """,
        start=spawn.PLAIN_START,
        preamble=spawn.PLAIN,
        environment=lambda i: DEVICES,
    )


def test_plain_values_that_differ_are_found_where_they_are_distributed():
    outputs = spawn.run(
        """
        mesh = tm.Mesh({"data": 4})
        same = tm.distribute(torch.arange(8.0), mesh, ("S0",))
        try:
            tm.distribute(torch.arange(8.0) + me, mesh, ("S0",))
            print("number")
        except RuntimeError as error:
            print(error)
        """,
        start=spawn.PLAIN_START,
        preamble=spawn.PLAIN,
        environment=lambda i: {**DEVICES, "TORCH_MESH_CHECK": "1"},
    )
    texts = [out + err for _, out, err in outputs]
    for text in texts:
        assert not text.startswith("number"), text
    assert any(
        "[processes-differ]" in text and "distribute of [8]" in text
        for text in texts
    ), texts

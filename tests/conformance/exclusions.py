"""What is not compared because plain torch itself fails; at most twelve.

Each has the plain call that shows it; tests/conformance/test_suites.py counts
them, and makes these calls.
"""

# x = torch.randn(2, 3, 4, 5); out = torch.empty(5, 4, 3, 2).permute(3, 2, 1, 0)
# torch.triu(x, out=out)    writes outside of `out` and corrupts the heap: it
# takes the batches of `out` for one dim. So do the ops that call it with their
# `out`:
# x = torch.randn(3, 3, 7, 5); lu, pivots = torch.linalg.lu_factor(x)
# outs = [torch.empty(r.shape[::-1]).permute(3, 2, 1, 0) for r in linalg.lu(x)]
# torch.linalg.lu(x, out=outs)    torch.lu_unpack(lu, pivots, out=outs)
BROKEN_OUT = {
    ("linalg.lu", "transposed"),
    ("lu_unpack", "transposed"),
    ("tril", "transposed"),
    ("triu", "transposed"),
}
LEAST_DIMS = 4  # two batch dims; with fewer plain torch is right

EXCLUSIONS = sorted(f"{op}(out={kind})" for op, kind in BROKEN_OUT)

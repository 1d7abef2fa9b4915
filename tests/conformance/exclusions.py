"""What is not compared because plain torch itself fails; at most twelve.

Each has the plain call that shows it; tests/conformance/test_suites.py counts
them.
"""

# x = torch.randn(2, 5, 3); out = torch.empty(3, 5, 2).permute(2, 1, 0)
# torch.triu(x, out=out)    writes outside of `out` and corrupts the heap
BROKEN_OUT = {("triu", "transposed"), ("tril", "transposed")}

EXCLUSIONS = sorted(f"{op}(out={kind})" for op, kind in BROKEN_OUT)

"""torch_mesh.engines, where neither torch nor the package is installed."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[1] / "python/torch_mesh/engines.py"
_spec = importlib.util.spec_from_file_location("torch_mesh_engines", _FILE)
assert _spec is not None and _spec.loader is not None
engines = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engines)

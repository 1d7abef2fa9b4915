"""Where a program runs: on plain torch, or on a mesh in one of two ways."""

import contextlib
import dataclasses
import fnmatch

import torch

import torch_mesh as tm

MODES = ("plain", "data", "tensor")
MESHES = {"data": {"data": 4}, "tensor": {"data": 2, "model": 2}}

# What a word does to the weight and to the bias of a module, on the axis model.
WORDS = {
    "colwise": ("S0", "S0"),  # Linear, Conv: outputs are split
    "rowwise": ("S1", "R"),  # Linear, Conv: inputs are split
    "rows": ("S0", "R"),  # Embedding: rows are split
    "columns": ("S1", "S0"),  # Conv1D of GPT2, transposed convolutions
    "inner": ("S0", "R"),  # the row-wise word of those
}


@dataclasses.dataclass
class Place:
    """One of MODES, a dtype, and whether sizes are those of the tests.

    "data" splits batches over four devices, "tensor" batches over two and
    weights over two more. `drawn` is the dtype of the random numbers, where it
    is not `dtype`: float64 with the numbers of float32 is what both are near.
    """

    mode: str
    dtype: torch.dtype = torch.float32
    small: bool = False
    drawn: torch.dtype | None = None

    def __post_init__(self):
        shape = MESHES.get(self.mode)
        self.mesh = tm.Mesh(shape) if shape else None
        self.device = "mesh" if shape else "cpu"

    def size(self, large, small):
        """`small` in the tests, where every program has to be quick."""
        return small if self.small else large

    def batch(self, *tensors, dim=0):
        """Tensors whose dim `dim` is that of the batch."""
        tensors = [self.cast(t) for t in tensors]
        if self.mesh:
            rest = ["R"] * (len(self.mesh.shape) - 1)
            layout = [f"S{dim}", *rest]
            tensors = [tm.distribute(t, self.mesh, layout) for t in tensors]
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    def whole(self, tensor):
        """A tensor that every device holds."""
        tensor = self.cast(tensor)
        return tm.distribute(tensor, self.mesh) if self.mesh else tensor

    def cast(self, tensor):
        """The tensor in `dtype`, if it was drawn in another."""
        same = self.drawn is None or not tensor.dtype.is_floating_point
        return tensor if same else tensor.to(self.dtype)

    def module(self, module, layouts=None):
        """The module, moved, its weights laid out if they are to be split.

        Args:
            module: any module; it is changed.
            layouts: dict of a glob of module names to a word of WORDS, or of
                parameter names to a placement on the axis `model`.
        """
        module.to(self.device)
        if self.drawn is not None:
            module.to(self.dtype)
        if self.mode == "tensor":
            self.split(module, layouts or {})
        return module

    def split(self, module, layouts):
        unused = set(layouts)
        for name, parameter in module.named_parameters():
            owner, _, kind = name.rpartition(".")
            for pattern, word in layouts.items():
                of_owner = word in WORDS and fnmatch.fnmatch(owner, pattern)
                if not of_owner and not fnmatch.fnmatch(name, pattern):
                    continue
                placement = word
                if of_owner:
                    placement = WORDS[word][kind.startswith("bias")]
                unused.discard(pattern)
                parameter.data = tm.redistribute(
                    parameter.data, ("R", placement)
                )
                break
        if unused:
            raise ValueError(f"no parameter for {sorted(unused)}")

    def distribution(self, layouts):
        """Sets the distribution of a Keras program, before its model is made.

        Args:
            layouts: dict of a pattern of variable paths to axes, for "tensor".
        """
        import keras
        from keras.src.distribution import (
            DataParallel,
            DeviceMesh,
            LayoutMap,
            ModelParallel,
        )

        devices = keras.distribution.list_devices()[:4]
        if self.mode == "data":
            chosen = DataParallel(devices=devices)
        elif self.mode == "tensor":
            mesh = DeviceMesh((2, 2), ["batch", "model"], devices)
            layout_map = LayoutMap(mesh)
            for pattern, axes in layouts.items():
                layout_map[pattern] = axes
            chosen = ModelParallel(
                layout_map=layout_map, batch_dim_name="batch"
            )
        else:
            return
        keras.distribution.set_distribution(chosen)

    @contextlib.contextmanager
    def active(self, keras_program=False):
        """What is in force while the program runs."""
        if keras_program:
            with self.clean_keras():
                yield
            return
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.drawn or self.dtype)
        try:
            with tm.use(self.mesh) if self.mesh else contextlib.nullcontext():
                yield
        finally:
            torch.set_default_dtype(before)

    @contextlib.contextmanager
    def clean_keras(self):
        """Keras as if it had just been imported, in the dtype of the place."""
        import keras

        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(11)
        dtype = str(self.dtype).removeprefix("torch.")
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")
            keras.utils.clear_session(free_memory=False)

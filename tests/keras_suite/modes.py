"""The five ways in which Keras's own tests are run.

    stock   plain Keras on the CPU, torch_mesh not loaded
    mesh    KERAS_TORCH_DEVICE=mesh: every tensor is on the mesh device
    data    DataParallel over 4 virtual devices is in force in every test
    model   ModelParallel over 2 x 2, which splits every variable it can
    processes  DataParallel over two processes of two devices each (pair.py)

Keras's `TestCase.setUp` calls `clear_session`, which ends a distribution. So
in the last three modes "no distribution" means the mode's own: what a test sets
or takes back itself works as ever, in between and afterwards ours is in force.
"""

import os

MODES = ("stock", "mesh", "data", "model", "processes")
DEVICES = [f"cpu:{i}" for i in range(4)]


def environment(mode):
    """What a process needs in its environment before Keras is imported.

    Args:
        mode: One of `MODES`.

    Returns:
        dict of variables to set.
    """
    own = {
        "processes": {
            # Both open what is one file.
            "HDF5_USE_FILE_LOCKING": "FALSE",
            "TORCH_MESH_CPU_DEVICES": "2",
            "TORCH_MESH_TIMEOUT": "60",
        },
    }
    return {
        "KERAS_BACKEND": "torch",
        "KERAS_TORCH_DEVICE": "mesh" if mode == "mesh" else "cpu",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0" if mode == "stock" else "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_MESH_CPU_DEVICES": "4",
        # Two processes on two cores, and sums in one order.
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **own.get(mode, {}),
    }


def enter(mode, addresses=None):
    """Puts this process into a mode; imports Keras.

    Args:
        mode: One of `MODES`; `environment(mode)` is set.
        addresses: Of the processes of mode `processes`.

    Returns:
        Two functions without arguments: `begin_test`, to be called before
        each test, and `on_mesh`, which says whether new tensors of Keras go to
        the mesh at this moment.
    """
    assert os.environ["KERAS_BACKEND"] == "torch"
    import keras  # noqa: F401

    if mode == "stock":
        return (lambda: None), (lambda: False)
    import torch_mesh as tm
    import torch_mesh.keras
    from torch_mesh.keras import active

    if mode == "mesh":
        return (lambda: None), active.on_mesh
    if mode == "processes":
        import pair  # loads torch, which whoever asks for names alone need not

        tm.initialize(addresses, 2, pair.index())
    makers = {
        "data": _data_parallel,
        "model": _model_parallel,
        "processes": _data_parallel,
    }
    distribution = makers[mode]()
    _keep_in_force(active, distribution)
    return (lambda: active.switch(None)), active.on_mesh


def _data_parallel():
    from keras.distribution import DataParallel

    return DataParallel(devices=DEVICES)


def _model_parallel():
    from keras.distribution import (
        DeviceMesh,
        LayoutMap,
        ModelParallel,
        TensorLayout,
    )

    class Greedy(ModelParallel):
        """Splits the last dim of every variable, and the first of matrices.

        Sizes need not divide. A LayoutMap cannot say so: it sees paths, and
        the dims of a variable are not in its path.
        """

        def get_variable_layout(self, variable):
            axes = [None] * len(variable.shape)
            if len(axes) > 1:
                axes[0] = "batch"
            if axes:
                axes[-1] = "model"
            return TensorLayout(axes, self.device_mesh)

    mesh = DeviceMesh((2, 2), ["batch", "model"], DEVICES)
    return Greedy(layout_map=LayoutMap(mesh), batch_dim_name="batch")


def _keep_in_force(active, distribution):
    """Makes `active.switch(None)` put `distribution` in force."""
    from keras.src.backend.common import global_state

    switch = active.switch

    def switch_to_ours(value):
        if value is None:
            switch(distribution)
            global_state.set_global_attribute("distribution", distribution)
        else:
            switch(value)

    active.switch = switch_to_ours
    switch_to_ours(None)

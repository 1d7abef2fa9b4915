"""What is replaced in Keras, in groups, and why.

A replacement that is named as text stands in a module that loads the engine,
or parts of Keras that are not there while Keras loads: it is imported when the
patch is applied.
"""

from __future__ import annotations

from torch_mesh.keras import checks, compat, replacements
from torch_mesh.keras.compat import CORE, DISTRIBUTION, TRAINER
from torch_mesh.patching import Group, Patch, Table

GLOBAL_STATE = "keras.src.backend.common.global_state"
_RANDOM = "keras.src.backend.torch.random"
_RNN = "keras.src.backend.torch.rnn"
_SAVING = "keras.src.saving.saving_lib"
_OPTIMIZER = "keras.src.optimizers.base_optimizer"
_SCALING = "keras.src.optimizers.loss_scale_optimizer"
_HERE = "torch_mesh.keras"

# Applied as the modules load. Until a distribution is set, each asks one
# question and hands over to Keras.
AT_IMPORT = (
    Group(
        "variables",
        (
            Patch(
                CORE,
                "Variable._initialize_layout",
                replacements.initialize_layout,
                "a variable asks the distribution for its layout, as on JAX",
                expects="self",
                new=True,
            ),
            Patch(
                CORE,
                "Variable._initialize",
                replacements.initialize,
                "a value is placed before it is wrapped in a Parameter",
                expects="self, value",
            ),
            Patch(
                CORE,
                "Variable._initialize_with_initializer",
                replacements.initialize_with_initializer,
                "a sharded weight is never whole on a device",
                expects="self, initializer",
            ),
            Patch(
                CORE,
                "Variable.__repr__",
                replacements.variable_repr,
                "a variable on the mesh shows its layout",
                expects="self",
            ),
        ),
    ),
    Group(
        "default device",
        (
            Patch(
                GLOBAL_STATE,
                "clear_session",
                replacements.clear_session,
                "it drops the distribution, so the default device goes with it",
                expects="free_memory=",
            ),
            Patch(
                DISTRIBUTION,
                "set_distribution",
                replacements.set_distribution,
                "a distribution brings the mesh as the default device",
                expects="value",
            ),
            Patch(
                DISTRIBUTION,
                "ModelParallel.get_tensor_layout",
                replacements.get_tensor_layout,
                "what is computed under keras.device stays off the mesh",
                expects="self, path",
            ),
        ),
    ),
    Group(
        "layout maps",
        (
            Patch(
                DISTRIBUTION,
                "LayoutMap.__getitem__",
                replacements.layout_map_getitem,
                "patterns that Keras would drop silently get a meaning",
                expects="self, key",
            ),
            Patch(
                DISTRIBUTION,
                "LayoutMap.__setitem__",
                checks.layout_map_setitem,
                "a pattern that is no regular expression is refused at once, "
                "and remembered look-ups end when the map changes",
                expects="self, key, layout",
            ),
            Patch(
                DISTRIBUTION,
                "LayoutMap.__delitem__",
                checks.layout_map_delitem,
                "remembered look-ups end when the map changes",
                expects="self, key",
            ),
            Patch(
                DISTRIBUTION,
                "LayoutMap.__repr__",
                checks.layout_map_repr,
                "a map shows its patterns and their layouts",
                expects="self",
            ),
            Patch(
                DISTRIBUTION,
                "LayoutMap._get_path_adapter",
                replacements.layout_map_adapter,
                "the map's view of PyTorch's parameter names",
                expects="self",
                new=True,
            ),
        ),
    ),
    Group(
        "checks of distributions",
        (
            Patch(
                DISTRIBUTION,
                "DeviceMesh.__init__",
                checks.device_mesh_init,
                "an error about the number of devices says how to have as many",
                expects="self, shape, axis_names, devices=",
            ),
            Patch(
                DISTRIBUTION,
                "DataParallel.__init__",
                checks.data_parallel_init,
                "an empty list of devices is an error, and not all devices",
                expects="self, device_mesh=, devices=, auto_shard_dataset=",
            ),
            Patch(
                DISTRIBUTION,
                "Distribution.__init__",
                checks.distribution_init,
                "a mesh over processes takes data of any kind",
                expects="self, device_mesh, batch_dim_name=, "
                "auto_shard_dataset=",
            ),
            Patch(
                DISTRIBUTION,
                "ModelParallel.__init__",
                checks.model_parallel_init,
                "an axis that the mesh has not is refused at once",
                expects="self, *, layout_map=, batch_dim_name=, "
                "auto_shard_dataset=, **kwargs",
            ),
        ),
    ),
    Group(
        "jit_compile",
        (
            Patch(
                TRAINER,
                "TorchTrainer._should_torch_compile",
                replacements.should_torch_compile,
                "jit_compile has no code generator for the mesh",
                expects="self",
                also="Trainer._use_torch_compile",
            ),
        ),
    ),
    # Errors of Keras, each by itself.
    Group(
        "a faster scatter",
        (
            Patch(
                CORE,
                "scatter",
                replacements.scatter,
                "Keras 3.15 adds row by row, and waits for the device at each",
                expects="indices, values, shape",
                until="3.16",
            ),
        ),
    ),
    Group(
        "associative_scan",
        (
            Patch(
                CORE,
                "associative_scan",
                replacements.associative_scan,
                "Keras up to 3.16 makes its zeros on torch's default device",
                expects="f, elems, reverse=, axis=",
            ),
        ),
    ),
    Group(
        "DataParallel on several axes",
        (
            Patch(
                DISTRIBUTION,
                "DataParallel._initialize_with_device_mesh",
                checks.initialize_with_device_mesh,
                "Keras up to 3.16 raises TypeError where it means to warn of a "
                "mesh with several axes",
                expects="self, device_mesh, auto_shard_dataset",
            ),
        ),
    ),
)

# Applied at the first distribution, when all of Keras is there.
AT_FIRST_DISTRIBUTION = (
    Group(
        "batches",
        (
            *(
                Patch(
                    TRAINER,
                    f"TorchTrainer.make_{kind}_function",
                    f"{_HERE}.trainer:make_{kind}_function",
                    f"{kind} batches are sharded before {kind}_step",
                    expects="self, force=",
                    also=f"Trainer.make_{kind}_function",
                )
                for kind in ("train", "test", "predict")
            ),
            Patch(
                "keras.src.models.model",
                "Model.__call__",
                f"{_HERE}.trainer:call",
                "a model that was built elsewhere moves when it is called, too",
                expects="self, *args, **kwargs",
            ),
            Patch(
                TRAINER,
                "TorchEpochIterator._get_iterator",
                f"{_HERE}.trainer:get_iterator",
                "NumPy batches go from the host to the shards, never to "
                "replicas",
                expects="self",
            ),
        ),
        needs=("variables", "default device"),
    ),
    Group(
        "saving",
        (
            Patch(
                CORE,
                "Variable.assign",
                f"{_HERE}.saving:assign",
                "a large value goes to the shards block by block",
                expects="self, value",
            ),
            Patch(
                _SAVING,
                "H5IOStore.__setitem__",
                f"{_HERE}.saving:h5_setitem",
                "a large weight goes to its file block by block",
                expects="self, key, value",
            ),
            Patch(
                _SAVING,
                "H5IOStore.__getitem__",
                f"{_HERE}.saving:h5_getitem",
                "a large weight comes from its file block by block",
                expects="self, key",
            ),
            Patch(
                _SAVING,
                "is_memory_sufficient",
                f"{_HERE}.saving:is_memory_sufficient",
                "an archive's weights do not stand in memory once more",
                expects="model",
            ),
        ),
    ),
    Group(
        "files of several processes",
        (
            *(
                Patch(
                    "keras.src.saving.saving_api",
                    name,
                    f"{_HERE}.writing:{name}",
                    "all processes of a mesh gather, and one writes",
                    expects=expects,
                )
                for name, expects in (
                    (
                        "save_model",
                        "model, filepath, overwrite=, zipped=, **kwargs",
                    ),
                    (
                        "save_weights",
                        "model, filepath, overwrite=, max_shard_size=, "
                        "**kwargs",
                    ),
                )
            ),
            *(
                Patch(
                    f"keras.src.callbacks.{module}",
                    method,
                    f"{_HERE}.writing:{replacement}",
                    why,
                    expects=expects,
                )
                for module, method, replacement, why, expects in (
                    (
                        "callback_list",
                        "CallbackList._configure_async_dispatch",
                        "configure_async_dispatch",
                        "processes read the values of a step in one order",
                        "self, callbacks",
                    ),
                    *(
                        (
                            "callback_list",
                            f"CallbackList.{hook}",
                            hook,
                            "what no callback looks at is not sent",
                            "self, batch, logs=",
                        )
                        for hook in (
                            "on_train_batch_end",
                            "on_test_batch_end",
                            "on_predict_batch_end",
                        )
                    ),
                    (
                        "progbar_logger",
                        "ProgbarLogger.set_params",
                        "progbar_set_params",
                        "one process of a mesh shows the progress",
                        "self, params",
                    ),
                    (
                        "csv_logger",
                        "CSVLogger.on_train_begin",
                        "unless_silent",
                        "one process of a mesh writes the log",
                        "self, logs=",
                    ),
                    (
                        "csv_logger",
                        "CSVLogger.on_epoch_end",
                        "unless_silent",
                        "one process of a mesh writes the log",
                        "self, epoch, logs=",
                    ),
                    (
                        "csv_logger",
                        "CSVLogger.on_train_end",
                        "unless_silent",
                        "one process of a mesh writes the log",
                        "self, logs=",
                    ),
                    (
                        "tensorboard",
                        "TensorBoard.set_model",
                        "tensorboard_set_model",
                        "one process of a mesh writes the log",
                        "self, model",
                    ),
                    (
                        "model_checkpoint",
                        "ModelCheckpoint._save_model",
                        "checkpoint_save_model",
                        "one process of a mesh says that it saves",
                        "self, epoch, batch, logs",
                    ),
                    (
                        "backup_and_restore",
                        "BackupAndRestore.on_train_begin",
                        "backup_on_train_begin",
                        "all processes of a mesh restore the same",
                        "self, logs=",
                    ),
                    (
                        "backup_and_restore",
                        "BackupAndRestore._save_model",
                        "backup_save_model",
                        "one process of a mesh keeps the folder",
                        "self",
                    ),
                    (
                        "backup_and_restore",
                        "BackupAndRestore.on_train_end",
                        "backup_on_train_end",
                        "one process of a mesh removes the folder",
                        "self, logs=",
                    ),
                )
            ),
        ),
        needs=("saving",),
    ),
    Group(
        "summaries",
        (
            Patch(
                "keras.src.utils.summary_utils",
                "print_summary",
                f"{_HERE}.summary:print_summary",
                "a summary shows layouts and bytes per device",
                expects="model, line_length=, positions=, print_fn=, "
                "expand_nested=, show_trainable=, layer_range=",
            ),
        ),
    ),
    Group(
        "names of torch modules",
        (
            Patch(
                "keras.src.utils.torch_utils",
                "TorchModuleWrapper._track_module_parameters",
                f"{_HERE}.torch_module:track_module_parameters",
                "a torch module's parameters are found by PyTorch's names",
                expects="self",
            ),
        ),
        needs=("variables",),
    ),
    Group(
        "optimizers",
        (
            *(
                Patch(
                    f"keras.src.optimizers.{module}",
                    f"{name}.apply",
                    f"{_HERE}.optimizer:{replacement}",
                    "gradients share a bucket before they are checked; slots "
                    "follow",
                    expects="self, grads, trainable_variables=",
                )
                for module, name, replacement in (
                    ("base_optimizer", "BaseOptimizer", "apply"),
                    (
                        "loss_scale_optimizer",
                        "LossScaleOptimizer",
                        "apply_of_others",
                    ),
                    ("multi_optimizer", "MultiOptimizer", "apply_of_others"),
                )
            ),
            Patch(
                _OPTIMIZER,
                "BaseOptimizer.add_variable_from_reference",
                f"{_HERE}.optimizer:add_variable_from_reference",
                "slots of a cut optimizer are made in parts",
                expects="self, reference_variable, name=, initializer=",
            ),
            *(
                Patch(
                    module,
                    f"{name}._backend_increment_gradient_accumulators",
                    f"{_HERE}.optimizer:increment_gradient_accumulators",
                    "a step that only accumulates gathers no weight",
                    expects="self, grads, acc_grads",
                )
                for module, name in (
                    (_OPTIMIZER, "BaseOptimizer"),
                    (
                        "keras.src.backend.torch.optimizers."
                        "torch_parallel_optimizer",
                        "TorchParallelOptimizer",
                    ),
                )
            ),
            Patch(
                _SCALING,
                "LossScaleOptimizer.scale_loss",
                f"{_HERE}.optimizer:scale_loss",
                "the scale follows weights that have moved",
                expects="self, loss",
            ),
        ),
    ),
    Group(
        "recurrent layers",
        (
            Patch(
                _RNN,
                "_fallback_lstm",
                f"{_HERE}.recurrent:fallback_lstm",
                "a layer whose batch alone is cut runs whole in each memory",
                expects="inputs, initial_state_h, initial_state_c, kernel, "
                "recurrent_kernel, bias, activation, recurrent_activation, "
                "return_sequences, batch_first",
            ),
            Patch(
                _RNN,
                "_fallback_gru",
                f"{_HERE}.recurrent:fallback_gru",
                "a layer whose batch alone is cut runs whole in each memory",
                expects="inputs, initial_state, kernel, recurrent_kernel, "
                "bias, activation, recurrent_activation, return_sequences",
            ),
            Patch(
                "keras.src.layers.rnn.rnn",
                "RNN.inner_loop",
                f"{_HERE}.recurrent:inner_loop",
                "so does a layer with a mask, which steps its cell",
                expects="self, sequences, initial_state, mask, training=",
            ),
        ),
    ),
    Group(
        "initial values in blocks",
        (
            Patch(
                _RANDOM,
                "normal",
                f"{_HERE}.draws:normal",
                "what an initializer draws is noted, to be drawn in blocks",
                expects="shape, mean=, stddev=, dtype=, seed=",
            ),
            Patch(
                _RANDOM,
                "truncated_normal",
                f"{_HERE}.draws:truncated_normal",
                "what an initializer draws is noted, to be drawn in blocks",
                expects="shape, mean=, stddev=, dtype=, seed=",
            ),
            Patch(
                _RANDOM,
                "uniform",
                f"{_HERE}.draws:uniform",
                "what an initializer draws is noted, to be drawn in blocks",
                expects="shape, minval=, maxval=, dtype=, seed=",
            ),
            Patch(
                _RANDOM,
                "torch_seed_generator",
                f"{_HERE}.draws:torch_seed_generator",
                "one generator draws all blocks of a weight",
                expects="seed",
            ),
        ),
    ),
)

# Beside these, `keras.src.backend.distribution_lib` (None on torch) and
# `keras.src.backend.torch.distribution_lib` become `distribution_lib` of this
# package, and `keras.src.backend.torch.core.DEFAULT_DEVICE` is the mesh while
# a distribution is set.
TABLE = Table(AT_IMPORT + AT_FIRST_DISTRIBUTION, compat.version, compat.module)

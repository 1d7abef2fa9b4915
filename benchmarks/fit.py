"""Steps per second of Keras `fit` on a mesh, and the memory that it holds.

DataParallel on two virtual devices against plain Keras with two threads and
against two gloo processes with DistributedDataParallel. Each runs in a process
of its own that lives for all rounds and sleeps while another one's turn is on.
See README.md for what is measured and how.

Run: python benchmarks/fit.py [--quick] [--json] [--models mlp,conv,transformer]
"""

import argparse
import ctypes
import datetime
import json
import os
import pathlib
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))

BATCH_SIZE = {"mlp": 64, "conv": 64, "transformer": 32, "weights": 64}
NUM_DEVICES = 2
# What the project aims at: the mesh over plain Keras, the mesh over DDP.
TARGETS = {"mlp": (0.9, 1.3), "conv": (0.9, 1.1), "transformer": (0.9, 0.85)}
MEMORY_TARGET = 1.15
BUCKET_BYTES = 25 * 2**20
WARM_STEPS = 20
MOST_LOAD = 0.5  # average number of running threads before the start
REPLY = "@reply "

# ---------------------------------------------------------------- the models


def build_model(name):
    """Returns the compiled model `name`."""
    import digits
    import gpt
    import keras

    if name == "conv":
        return digits.build_model(image_shape=(28, 28, 1), seed=None)
    if name == "transformer":
        return gpt.build_model(
            num_blocks=4, width=128, heads=4, context=64, seed=None
        )
    # "weights" has 100 MB of them: 6 kernels of 2048 x 2048 float32.
    inputs, widths = {
        "mlp": (784, [256, 256]),
        "weights": (2048, [2048] * 6),
    }[name]
    hidden = [keras.layers.Dense(w, activation="relu") for w in widths]
    model = keras.Sequential(
        [keras.Input((inputs,)), *hidden, keras.layers.Dense(10)]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def make_data(name, num):
    """Returns (x, y): `num` random examples for the model `name`."""
    import gpt
    import numpy as np

    draw = np.random.RandomState(0)
    if name == "transformer":
        text = draw.randint(0, gpt.NUM_TOKENS, (num, 65)).astype("int32")
        return text[:, :-1], text[:, 1:]
    shape = {"mlp": (784,), "conv": (28, 28, 1), "weights": (2048,)}[name]
    x = draw.rand(num, *shape).astype("float32")
    return x, draw.randint(0, 10, num).astype("int32")


# ------------------------------------------------ a process that takes turns


class Fit:
    """One contestant: a model and its data, in this process."""

    def __init__(self, kind, name, index, port):
        """Builds the model and runs a few steps.

        Args:
            kind: "plain", "mesh" or "ddp".
            name: the model.
            index: which of the DDP processes this is.
            port: where the DDP processes meet.
        """
        import keras
        import torch

        torch.set_num_threads(1 if kind == "ddp" else NUM_DEVICES)
        self.name = name
        self.batch_size = BATCH_SIZE[name]
        if kind == "mesh":
            keras.distribution.set_distribution(data_parallel(NUM_DEVICES))
        keras.utils.set_random_seed(0)
        self.model = build_model(name)
        if kind == "ddp":
            self.batch_size //= NUM_DEVICES
            torch.distributed.init_process_group(
                "gloo",
                init_method=f"tcp://127.0.0.1:{port}",
                rank=index,
                world_size=NUM_DEVICES,
            )
            train_with_ddp(self.model)
        self.data = make_data(name, self.batch_size)
        self.run(WARM_STEPS)

    def run(self, num_steps):
        """Returns the seconds that a `fit` of num_steps steps takes."""
        num = num_steps * self.batch_size
        if len(self.data[0]) < num:
            self.data = make_data(self.name, num)
        x, y = self.data
        start = time.perf_counter()
        self.model.fit(x[:num], y[:num], batch_size=self.batch_size, verbose=0)
        return time.perf_counter() - start

    def count(self, num_steps):
        """Returns the mesh's counters of a `fit` of num_steps steps."""
        import torch_mesh as tm

        with tm.counting() as counts:
            self.run(num_steps)
        return {
            "replicated_ops": dict(counts.replicated_ops),
            "collectives_per_step": {
                name: number / num_steps
                for name, number in counts.collectives.items()
            },
            "bytes_per_step": {
                axis: number / num_steps
                for axis, number in counts.bytes_per_axis().items()
            },
            "ops_per_step": counts.ops / num_steps,
            "plans_made": counts.plans_made,
        }


def data_parallel(num_devices):
    """Returns Keras's DataParallel over virtual devices."""
    import keras

    devices = [f"cpu:{i}" for i in range(num_devices)]
    return keras.distribution.DataParallel(devices=devices)


def train_with_ddp(model):
    """Makes the model's train step go through DistributedDataParallel.

    The step is Keras's, line by line, but for the call of the model.
    """
    import torch

    parallel = torch.nn.parallel.DistributedDataParallel(model)

    def train_step(data):
        x, y = data
        y_pred = parallel(x, training=True)
        model.zero_grad()
        loss = model._compute_loss(x=x, y=y, y_pred=y_pred, training=True)
        model._loss_tracker.update_state(loss, sample_weight=x.shape[0])
        loss.backward()
        weights = model.trainable_weights[:]
        with torch.no_grad():
            model.optimizer.apply([w.value.grad for w in weights], weights)
        return model.compute_metrics(x, y, y_pred)

    model.train_step = train_step


def serve(arguments):
    """Answers the requests on stdin until it ends: one JSON line for each."""
    contestant = Fit(
        arguments.serve, arguments.model, arguments.index, arguments.port
    )
    print(REPLY + json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request, number = line.split()
        answer = getattr(contestant, request)(int(number))
        print(REPLY + json.dumps(answer), flush=True)


class Child:
    """A process which serves one contestant, or one of its processes."""

    def __init__(self, kind, name, index=0, port=0):
        environment = dict(os.environ, KERAS_BACKEND="torch")
        environment.pop("OMP_NUM_THREADS", None)
        if kind != "mesh":
            environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
        command = [sys.executable, __file__, "--serve", kind, "--model", name]
        self.process = subprocess.Popen(
            [*command, "--index", str(index), "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, request, number):
        self.process.stdin.write(f"{request} {number}\n")
        self.process.stdin.flush()

    def answer(self):
        for line in self.process.stdout:
            if line.startswith(REPLY):
                return json.loads(line[len(REPLY) :])
        raise RuntimeError(
            f"the process {self.process.args} ended: {self.process.wait()}"
        )

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Contestant:
    """The processes of one way to train: one, or two for DDP."""

    def __init__(self, kind, name):
        if kind == "ddp":
            port = free_port()
            self.children = [
                Child(kind, name, index, port) for index in range(NUM_DEVICES)
            ]
        else:
            self.children = [Child(kind, name)]
        for child in self.children:
            child.answer()

    def ask(self, request, number):
        """Returns the answers of all processes, which run at once."""
        for child in self.children:
            child.ask(request, number)
        return [child.answer() for child in self.children]

    def steps_per_second(self, num_steps):
        return num_steps / max(self.ask("run", num_steps))

    def close(self):
        for child in self.children:
            child.close()


def free_port():
    """Returns a port of this machine that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def measure_speed(name, kinds, num_rounds, seconds):
    """Returns the steps per second of each kind, round by round.

    In each round all kinds take their turn, one after the other, with the
    same number of steps: what plain Keras does in `seconds`.
    """
    contestants = {kind: Contestant(kind, name) for kind in kinds}
    pace = contestants["plain"].steps_per_second(WARM_STEPS)
    num_steps = max(WARM_STEPS, round(pace * seconds))
    speeds = {kind: [] for kind in kinds}
    for _ in range(num_rounds):
        for kind, contestant in contestants.items():
            speeds[kind].append(contestant.steps_per_second(num_steps))
    result = {"steps_per_round": num_steps, "steps_per_second": speeds}
    if "mesh" in contestants:
        (result["counters"],) = contestants["mesh"].ask("count", WARM_STEPS)
        if not result["counters"]["ops_per_step"]:
            raise SystemExit(
                "No op ran on the mesh: install torch-mesh (`make build`), "
                "torch loads it by its entry point."
            )
    for contestant in contestants.values():
        contestant.close()
    return result


# -------------------------------------------------------------------- memory


def hold(num_devices):
    """Prints the bytes that training a model of 100 MB of weights holds.

    Runs in a process of its own with live_bytes.c preloaded. 0 devices mean
    plain Keras.
    """
    import keras

    if num_devices:
        keras.distribution.set_distribution(data_parallel(num_devices))
    library = ctypes.CDLL(None)
    library.live_bytes.restype = ctypes.c_longlong
    library.live_bytes_peak.restype = ctypes.c_longlong
    x, y = make_data("weights", BATCH_SIZE["weights"])
    before = library.live_bytes()
    library.live_bytes_reset_peak()
    model = build_model("weights")
    answer = {"built": library.live_bytes() - before}
    for _ in range(2):
        model.train_on_batch(x, y)
    first = library.live_bytes_peak()
    library.live_bytes_reset_peak()
    for _ in range(2):
        model.train_on_batch(x, y)
    answer["between_steps"] = library.live_bytes() - before
    answer["peak_of_a_step"] = library.live_bytes_peak() - before
    answer["peak"] = max(first, library.live_bytes_peak()) - before
    answer["weights"] = sum(w.value.nbytes for w in model.weights)
    print(REPLY + json.dumps(answer), flush=True)


def measure_memory(nums_devices):
    """Returns {number of devices: bytes}, with 0 for plain Keras."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/live_bytes.so"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", library]
            + [str(HERE / "live_bytes.c")],
            check=True,
        )
        for num_devices in nums_devices:
            environment = dict(
                os.environ, KERAS_BACKEND="torch", LD_PRELOAD=library
            )
            if not num_devices:
                environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
            out = subprocess.run(
                [sys.executable, __file__, "--hold", str(num_devices)],
                check=True,
                env=environment,
                capture_output=True,
                text=True,
            ).stdout
            line = out[out.rindex(REPLY) + len(REPLY) :]
            result[num_devices] = json.loads(line.splitlines()[0])
    return result


# ------------------------------------------------------------------- results


def spread(values):
    """Returns the median, least and largest of some numbers."""
    return statistics.median(values), min(values), max(values)


def ratios(speeds, other):
    """Returns the mesh's speed over another's, round by round."""
    return [a / b for a, b in zip(speeds["mesh"], speeds[other], strict=True)]


def make_table(*columns):
    import rich.box
    import rich.table

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table


def show_speed(name, result, console):
    """Prints the speeds of one model and their ratios to the mesh's."""
    speeds = result["steps_per_second"]
    table = make_table(
        name, "steps/s", "least", "most", "mesh / this", "least", "most", "aim"
    )
    labels = {
        "plain": "plain, 2 threads",
        "mesh": "mesh, 2 devices",
        "ddp": "DDP, 2 processes",
    }
    for kind, values in speeds.items():
        row = [labels[kind], *(f"{v:.1f}" for v in spread(values))]
        if kind != "mesh" and "mesh" in speeds:
            target = TARGETS[name][("plain", "ddp").index(kind)]
            values = ratios(speeds, kind)
            row += [f"{v:.2f}" for v in spread(values)] + [f"{target}"]
        table.add_row(*row)
    console.print(table)
    if "counters" in result:
        counters = result["counters"]
        lost = counters["replicated_ops"]
        collectives = ", ".join(
            f"{number:g} {kind}"
            for kind, number in counters["collectives_per_step"].items()
        )
        console.print(
            f"  per step: {counters['ops_per_step']:.0f} ops on the mesh, "
            f"{collectives}; plans made: {counters['plans_made']}\n"
            f"  ops on replicas for want of a rule: {lost or 'none'}",
            highlight=False,
        )


def show_memory(result, console):
    """Prints the bytes held, and over what plain Keras holds."""
    table = make_table(
        "100 MB of weights", "built", "between steps", "peak", "ratio", "aim"
    )
    plain = result[0]["peak"]
    for num_devices, held in result.items():
        row = ["plain" if not num_devices else f"{num_devices} devices"]
        for key in ("built", "between_steps", "peak"):
            row.append(f"{held[key] / 1e6:.0f} MB")
        if num_devices:
            more = BUCKET_BYTES if num_devices > 2 else 0
            aim = MEMORY_TARGET + more / plain
            row += [f"{held['peak'] / plain:.2f}", f"{aim:.2f}"]
        table.add_row(*row)
    console.print(table)


def machine():
    """Returns where and with what was measured."""
    import keras
    import torch

    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "keras": keras.__version__,
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 short rounds")
    parser.add_argument(
        "--json", action="store_true", help="write results/<date>-fit.json"
    )
    parser.add_argument("--models", default="mlp,conv,transformer")
    parser.add_argument("--against", default="plain,mesh,ddp")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--no-memory", action="store_true")
    for name in ("--serve", "--model"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--index", "--port", "--hold"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    arguments = parse()
    os.environ.setdefault("KERAS_BACKEND", "torch")
    if arguments.serve:
        return serve(arguments)
    if arguments.hold is not None:
        return hold(arguments.hold)

    import rich.console

    console = rich.console.Console()
    # All processes share the cores that the two devices have.
    cores = sorted(os.sched_getaffinity(0))[:NUM_DEVICES]
    os.sched_setaffinity(0, cores)
    num_rounds = arguments.rounds or (3 if arguments.quick else 9)
    seconds = 0.7 if arguments.quick else 2.0
    results = {"machine": machine(), "speed": {}}
    if results["machine"]["load"] > MOST_LOAD:
        console.print(
            f"Load {results['machine']['load']}: other programs run. Plain "
            "torch's threads wait for each other and lose most."
        )
    for name in filter(None, arguments.models.split(",")):
        result = measure_speed(
            name, arguments.against.split(","), num_rounds, seconds
        )
        results["speed"][name] = result
        show_speed(name, result, console)
    if not arguments.no_memory:
        nums = (0,) if "mesh" not in arguments.against else (0, NUM_DEVICES, 8)
        results["memory"] = measure_memory(nums)
        show_memory(results["memory"], console)
    if arguments.json:
        folder = HERE / "results"
        folder.mkdir(exist_ok=True)
        path = folder / f"{results['machine']['date']}-fit.json"
        path.write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"written: {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()

"""Runs Python programs in forks of a process that has loaded their packages.

To load torch and Keras takes longer than most programs of the tests. What a
program sees is what `python -c` would show it, but for packages that are there
already: a `__main__` of its own, arguments, environment, output; its
interpreter ends as any other.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import types

# Of what a program prints.
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


class Server:
    """A process that forks others, ended with the one that made it.

    Args:
        packages: Names of what it loads.
        environment: Variables as they are while these are loaded.
    """

    def __init__(self, packages, environment):
        self._requests, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *packages],
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def start(self, text, arguments, environment):
        """A process that runs `text`, a Python program."""
        return Process(self._requests, text, arguments, environment)

    def close(self):
        self._requests.close()
        self._process.wait()


class Process:
    """A forked process, with what tests need of `subprocess.Popen`."""

    def __init__(self, requests, text, arguments, environment):
        self.returncode = None
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115
        self._ends, theirs = socket.socketpair()
        with theirs:
            fds = [theirs.fileno(), *(f.fileno() for f in self._files)]
            socket.send_fds(requests, [b"+"], fds)
        request = json.dumps([text, arguments, dict(environment), os.getcwd()])
        send(self._ends, request.encode())
        self.pid = int(receive(self._ends))

    def communicate(self, timeout):
        """Output and errors, once the process has ended.

        Raises:
            TimeoutError: It has not, after `timeout` seconds.
        """
        self._ends.settimeout(timeout)
        self.returncode = int(receive(self._ends))
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read().decode())
        return tuple(texts)

    def kill(self):
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def send(connection, data):
    connection.sendall(struct.pack("<Q", len(data)) + data)


def receive(connection):
    [size] = struct.unpack("<Q", receive_exactly(connection, 8))
    return receive_exactly(connection, size)


def receive_exactly(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise EOFError("the server of the test's processes has ended")
        data += more
    return data


# The server


def serve(requests):
    """Forks processes as they are asked for.

    Returns:
        In a forked process, its program's text; None in the server, at its end.
    """
    gc.freeze()  # a forked process does not copy what it does not write
    ended, tell = socket.socketpair()
    tell.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    running = {}
    while True:
        readable, _, _ = select.select([requests, ended], [], [])
        if ended in readable:
            ended.recv(4096)
            say_who_ended(running)
        if requests not in readable:
            continue
        data, fds, _, _ = socket.recv_fds(requests, 1, 3)
        if not data:
            return None
        ends = socket.socket(fileno=fds[0])
        text, arguments, environment, folder = json.loads(receive(ends))
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for file in (requests, ended, tell, ends, *running.values()):
                file.close()
            for end, fd in zip(
                (STANDARD_OUTPUT, STANDARD_ERROR), fds[1:], strict=True
            ):
                os.dup2(fd, end)
                os.close(fd)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.argv = ["-c", *arguments]
            return text
        send(ends, str(pid).encode())
        running[pid] = ends
        for fd in fds[1:]:
            os.close(fd)


def say_who_ended(running):
    """Tells how each process ended: its code, less than 0 for a signal."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            break
        # Suppressed: nobody waits for it.
        with running.pop(pid) as ends, contextlib.suppress(BrokenPipeError):
            send(ends, str(os.waitstatus_to_exitcode(status)).encode())


def main():
    requests = socket.socket(fileno=int(sys.argv[1]))
    # As `python -c` has it: not the folder of this file.
    sys.path[0] = ""
    for package in sys.argv[2:]:
        importlib.import_module(package)
    text = serve(requests)
    if text is not None:
        program = types.ModuleType("__main__")
        sys.modules["__main__"] = program
        exec(compile(text, "<string>", "exec"), program.__dict__)


if __name__ == "__main__":
    main()

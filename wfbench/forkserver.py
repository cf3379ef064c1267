"""Processes that begin with their modules imported: forks of a server that has imported them and done nothing else.

A fresh Python takes seconds to import PyTorch; a fork of the server takes tenths of one. It shares nothing with the processes
before it: the server itself never computes. Python's own `multiprocessing` has a fork server too, which imports the user's main
script again in every process, and cannot give each its own environment, output and open files.

Only on Linux: elsewhere a fork of a process that has imported PyTorch is not safe. Where a server cannot be had, `start` starts
a fresh Python, which says so (`Process.origin`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import torch
from threadpoolctl import threadpool_limits

from wfbench import forkserver  # this file runs as `__main__`, and others import it

#: How a process came to be.
Origin = Literal["fork", "fresh"]
_BIG = 1 << 20  # bytes of one message
_PACKAGES = ("wfbench", "mixers")


class Process(Protocol):
    """What `subprocess.Popen` and a fork have in common."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; `subprocess.TimeoutExpired` if it takes longer."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


def start(
    module: str,
    arguments: Sequence[str],
    *,
    output: int,
    environment: Mapping[str, str],
    keep: Sequence[int] = (),
    preload: Sequence[str] = (),
    fork: bool = True,
) -> tuple[Process, Origin]:
    """Start the function ``main`` of a module in a process of its own, with its own session, without input.

    It is the same as ``python -m module arguments``, but for the time that this takes.

    Args:
        module: a module of the project with a function ``main`` without arguments, and which calls it when run with ``-m``.
        arguments: what stands in ``sys.argv[1:]``.
        output: an open file for what it prints, errors too.
        environment: all its variables. Libraries read some when they are loaded, so that a fork would be too late: where any
            but those of `_LATE` differ from ours, the process is a fresh one.
        keep: open files that the process inherits.
        preload: further modules that the server imports.
        fork: False for a fresh Python wherever this is.

    Returns:
        The process, and how it came to be.
    """
    environment = {**environment, "PYTHONPATH": _path()}
    server = _server((module, *preload), environment) if fork else None
    if server is not None:
        with contextlib.suppress(OSError):  # it was killed
            return server.fork(module, arguments, output, environment, keep), "fork"
    popen = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        pass_fds=keep,
        start_new_session=True,
    )
    return popen, "fresh"


def is_possible() -> bool:
    """Whether this system can fork a server."""
    return sys.platform.startswith("linux") and hasattr(os, "pidfd_open") and os.environ.get("WFBENCH_FORK") != "0"


class Fork:
    """A process that the server forked; has what of `subprocess.Popen` is needed."""

    def __init__(self, server: Server, pid: int) -> None:
        self.server, self.pid = server, pid
        self.returncode: int | None = None
        self._file: int | None = None
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._file = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs.

        A server that was killed took the exit codes of its processes along: they count as killed when they have ended.
        """
        if self.returncode is None:
            self.server.listen(0.0)
            self.returncode = self.server.ended.pop(self.pid, None)
            if self.returncode is None and self.server.is_gone and self._has_ended(0.0):
                self.returncode = -signal.SIGKILL
        if self.returncode is not None and self._file is not None:
            os.close(self._file)
            self._file = None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; `subprocess.TimeoutExpired` if it takes longer."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            if self.server.is_gone:
                self._has_ended(left)
            else:
                self.server.listen(left)
        assert self.returncode is not None
        return self.returncode

    def _has_ended(self, timeout: float | None) -> bool:
        return self._file is None or bool(select.select([self._file], [], [], timeout)[0])

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The client's end of a server. Forks are its children; it ends with the client, and by itself when that is killed."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        atexit.register(_close, weakref.ref(self))
        self.owner = os.getpid()
        self.modules = tuple(modules)
        self.sources = _sources()
        self.environment = dict(environment)
        self.is_gone = False
        #: Exit codes, by process, that nobody asked for yet.
        self.ended: dict[int, int] = {}
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "wfbench.forkserver", str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        if json.loads(self.socket.recv(_BIG) or b"null") != "ready":
            raise OSError("the server ended while it imported")

    def can(self, modules: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether it has imported these modules, in such an environment."""
        return set(modules) <= set(self.modules) and _early(environment) == _early(self.environment)

    def is_current(self) -> bool:
        """Whether it is there, ours, and has imported the source as it is now."""
        return not self.is_gone and self.owner == os.getpid() and self.popen.poll() is None and self.sources == _sources()

    def fork(
        self, module: str, arguments: Sequence[str], output: int, environment: Mapping[str, str], keep: Sequence[int]
    ) -> Fork:
        """Have it fork a process.

        Raises:
            OSError: if it is not there any more.
        """
        wish = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "directory": os.getcwd(),
            "path": _path().split(os.pathsep),
        }
        socket.send_fds(self.socket, [json.dumps(wish).encode()], [output, *keep])
        while True:
            news = self._next()
            if "began" in news:
                return Fork(self, news["began"])

    def listen(self, timeout: float | None) -> None:
        """Take in which processes have ended; wait up to ``timeout`` seconds for the first."""
        while not self.is_gone and select.select([self.socket], [], [], timeout)[0]:
            with contextlib.suppress(OSError):
                self._next()
            timeout = 0.0

    def _next(self) -> dict[str, Any]:
        data = self.socket.recv(_BIG)
        if not data:
            self.is_gone = True
            raise OSError("the server has ended")
        news: dict[str, Any] = json.loads(data)
        if "ended" in news:
            self.ended[news["ended"]] = news["code"]
        return news

    def close(self) -> None:
        """End it; its processes go on."""
        self.is_gone = True
        self.socket.close()
        if self.owner == os.getpid():
            self.popen.wait()

    __del__ = close  # nobody needs it any more, for another fork or for an exit code


#: Variables that are read when they are needed, so that each fork can have its own.
_LATE = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
_LATE_PREFIXES = ("WFBENCH_", "PYTEST_")
_MOST_SERVERS = 2
_servers: list[Server] = []


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k not in _LATE and not k.startswith(_LATE_PREFIXES)}


def _server(modules: Sequence[str], environment: Mapping[str, str]) -> Server | None:
    """A server of these modules, begun if there is none; None where there can be none."""
    ours = {**os.environ, "PYTHONPATH": _path()}
    if not is_possible() or _early(environment) != _early(ours) or not environment.get("OMP_NUM_THREADS", "").isdigit():
        return None
    _servers[:] = [server for server in _servers if server.is_current()]
    for server in _servers:
        if server.can(modules, environment):
            return server
    try:
        server = Server(modules, ours)
    except OSError:
        return None
    _servers[:] = [*_servers, server][-_MOST_SERVERS:]
    return server


def _close(reference: weakref.ref[Server]) -> None:
    """At the end of the program, while Python is whole."""
    server = reference()
    if server is not None:
        server.close()


def _path() -> str:
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def _sources() -> tuple[tuple[str, int, int], ...]:
    """What tells that code was changed, or packages were installed, since a server imported them."""
    roots = [Path(root) for name in _PACKAGES for root in importlib.import_module(name).__path__]
    files = sorted(file for root in roots for file in root.rglob("*.py"))
    places = [Path(place) for place in sys.path if place and Path(place).is_dir()]
    found = []
    for path in [*files, *places]:
        with contextlib.suppress(OSError):
            state = path.stat()
            found.append((str(path), state.st_mtime_ns, state.st_size))
    return tuple(found)


# --- in the server


#: The process that forks, in it and in its forks.
_server_pid: int | None = None


def end_with_parent() -> None:
    """Have the system kill this process when its parent dies, however it dies; on Linux alone there is a way."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if _server_pid is not None and os.getppid() != _server_pid:
        os._exit(1)  # it had died before


def _serve(connection: socket.socket) -> Callable[[], None]:
    """Fork for each wish. Returns in the forks alone, with what they are to do; ends when the client does."""
    forkserver._server_pid = os.getpid()
    connection.send(json.dumps("ready").encode())
    children: dict[int, int] = {}  # by the file that says that it has ended
    while True:
        for ready in select.select([connection.fileno(), *children], [], [])[0]:
            if ready != connection.fileno():
                pid = children.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _tell(connection, {"ended": pid, "code": code})
                continue
            data, files, _, _ = socket.recv_fds(connection, _BIG, 64)
            if not data:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                connection.close()
                for file in children:
                    os.close(file)
                return lambda data=data, files=files: _become(json.loads(data), files)  # type: ignore[misc]
            for file in files:
                os.close(file)
            children[os.pidfd_open(pid)] = pid
            _tell(connection, {"began": pid})


def _tell(connection: socket.socket, news: dict[str, int]) -> None:
    try:
        connection.send(json.dumps(news).encode())
    except OSError:
        os._exit(0)


def _become(wish: dict[str, Any], files: list[int]) -> None:
    """Be the process that was wished for, and do its work."""
    os.setsid()
    output, *kept = files
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    for file in kept:
        os.set_inheritable(file, True)
    os.environ.clear()
    os.environ.update(wish["environment"])
    os.chdir(wish["directory"])
    sys.path[:] = wish["path"]
    module = importlib.import_module(wish["module"])
    sys.argv[:] = [str(module.__file__), *wish["arguments"]]
    threads = int(wish["environment"]["OMP_NUM_THREADS"])
    threadpool_limits(threads)  # of the libraries that have read the variable already
    torch.set_num_threads(threads)
    module.main()


def _end(work: Callable[[], None]) -> NoReturn:
    """Do the work, and end with the exit code that Python would give it, without taking libraries down.

    Threads are waited for and what `atexit` holds is called, as at the end of any program; but the destructors of C++
    libraries, some of which wait for threads that a fork does not have, are left out, as in the forks of `multiprocessing`.
    """
    code = 1
    try:
        work()
        code = 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            code = stop.code or 0
        else:
            sys.stderr.write(f"{stop.code}\n")
    except BaseException as error:
        traceback.print_exception(error)
        if isinstance(error, KeyboardInterrupt):
            code = -signal.SIGINT
    finally:
        with contextlib.suppress(BaseException):  # the exit code is that of the work
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # no room, or closed
                code = code or 120
        if code == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(code & 0xFF)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _connection:
        for _name in sys.argv[2:]:
            importlib.import_module(_name)
        gc.freeze()  # what was imported stays, and the forks share its memory
        _work = _serve(_connection)
    _end(_work)

"""Processes of the program that begin with its libraries loaded: forked from a server that has imported them once.

Importing torch and transformers takes a process seconds, most of them more than what a test has it do. In all else it
is a process like any other: its own directory, environment, output, signals and exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import TimeoutExpired
from unittest.mock import patch

WARM_UP = "support.warm_up"
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([WARM_UP])


class Forked:
    """`python ARGUMENTS` ("-m", module, … or "-c", program, …) in `cwd`, started. Methods are subprocess.Popen's.

    `terminal`: the device at which it stands, for input, output and errors; `communicate` has nothing to read then.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        cwd: Path,
        environment: dict[str, str],
        terminal: str | None = None,
    ) -> None:
        self.said = tempfile.mkdtemp()
        names = [f"{self.said}/{name}" for name in ("output", "errors")]
        for name in names:
            Path(name).touch()
        self.process = _server.Process(
            target=_become, args=(list(map(str, arguments)), str(cwd), environment, names, terminal), daemon=True
        )
        with patch.dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path)):  # the server's own
            self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, sent: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, sent)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to standard output and standard error."""
        self.process.join(timeout)
        if self.poll() is None:
            raise TimeoutExpired(str(self.process), timeout or 0)
        output, errors = [Path(self.said, name).read_text("utf-8") for name in ("output", "errors")]
        shutil.rmtree(self.said)
        return output, errors


def _become(
    arguments: list[str],
    cwd: str,
    environment: dict[str, str],
    files: list[str],
    terminal: str | None,
) -> None:
    """In the forked process: what a new interpreter would do with these arguments."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # The server passes over a module that it cannot import, without a word; each process would then take seconds.
    assert WARM_UP in sys.modules, f"the server that forks has not imported {WARM_UP}"
    if terminal is not None:
        _stand_at(terminal)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in its background
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [cwd, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    how, what, *rest = arguments
    sys.argv = [how, *rest]
    if how == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


def _stand_at(terminal: str) -> None:
    """Make a terminal the one of this process, as a login does, with streams that know it."""
    os.setsid()
    device = os.open(terminal, os.O_RDWR)
    for number in range(3):
        os.dup2(device, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115

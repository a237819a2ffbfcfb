"""SIGTERM, as Slurm sends before a time limit: stop like after Ctrl-C, the last finished epoch standing."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class Terminated(BaseException):
    """SIGTERM arrived. Not an Exception, so that nothing takes it for a failure of its own."""


def raise_on_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread; elsewhere nothing changes."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise)


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Terminated

"""Runs a command in a real terminal of 80 columns and writes what it showed, in time, as an animated SVG.

    python scripts/record_terminal.py -o docs/images/first_run.svg -- python -m biencoder_ablate head=layernorm_relu

Nothing is invented: the screen is what the terminal emulator (pyte; extra `docs`) had at each moment. Pauses longer
than --longest-pause seconds are shown as so long, the last screen stands, and a reader who asks for less motion sees
that only.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import shlex
import struct
import sys
import termios
import time
from html import escape
from pathlib import Path

import pyte

Frame = tuple[float, tuple[str, ...]]
"""When, in seconds, and the lines of the screen."""
STYLE = """text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #d7dae0; white-space: pre }
.frame { visibility: hidden; animation: show 1s step-end }
@keyframes show { 0% { visibility: visible } 100% { visibility: hidden } }
.last { visibility: hidden; animation: stay 0.01s linear forwards }
@keyframes stay { to { visibility: visible } }
@media (prefers-reduced-motion) { .frame { animation: none } .last { animation: none; visibility: visible } }"""


def record(command: list[str], columns: int, lines: int) -> tuple[list[Frame], int]:
    """The screens a command showed, each with the second at which it appeared, and the command's exit code."""
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {shlex.join(command)}\r\n".encode())
    frames = [(0.0, tuple(screen.display))]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    started = time.perf_counter()
    while True:
        ready, _, _ = select.select([terminal], [], [], 1.0)
        if ready:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # Linux says so when the other end is closed
                break
            if not data:
                break
            stream.feed(data)
            if tuple(screen.display) != frames[-1][1]:
                frames.append((time.perf_counter() - started, tuple(screen.display)))
    _, status = os.waitpid(child, 0)
    return frames, os.waitstatus_to_exitcode(status)


def shorten(frames: list[Frame], longest: float, step: float = 0.1) -> list[Frame]:
    """Frames at least `step` seconds apart, and at most `longest`."""
    kept = [frames[0]]
    for index, (second, screen) in enumerate(frames[1:], 1):
        is_last = index == len(frames) - 1
        if is_last or frames[index + 1][0] - frames[index][0] >= step:
            gap = min(max(second - frames[index - 1][0], step), longest)
            kept.append((kept[-1][0] + gap, screen))
    return kept


def drawing(frames: list[Frame], columns: int, lines: int) -> str:
    """The SVG."""
    width, height = columns * 7.83 + 24, lines * 17 + 24
    parts = []
    for index, (second, screen) in enumerate(frames):
        text = "".join(
            f'<text x="12" y="{row * 17 + 24}">{escape(line.rstrip())}</text>'
            for row, line in enumerate(screen)
            if line.strip()
        )
        if index == len(frames) - 1:
            parts.append(f'<g class="last" style="animation-delay:{second:.2f}s">{text}</g>')
        else:
            shown = frames[index + 1][0] - second
            delay = f"animation-duration:{shown:.2f}s;animation-delay:{second:.2f}s"
            parts.append(f'<g class="frame" style="{delay}">{text}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img" '
        f'aria-label="Recording of a terminal"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" rx="8" fill="#1c1f26"/>{"".join(parts)}</svg>\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--lines", type=int, default=36)
    parser.add_argument("--longest-pause", type=float, default=1.5)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    frames, code = record(command, given.columns, given.lines)
    text = drawing(shorten(frames, given.longest_pause), given.columns, given.lines)
    Path(given.output).write_text(text, encoding="utf-8")
    print(f"{given.output}: {len(frames)} screens, exit code {code}")
    return code


if __name__ == "__main__":
    sys.exit(main())

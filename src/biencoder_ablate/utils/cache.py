"""The cache: what takes long to make is made once, under a lock, and believed only while its checksum fits.

An entry is a file or a directory, named by a hash over all that determines it. Beside it ENTRY.sha256 holds a checksum
of its content and is written last, so that an entry that was cut short, changed or exchanged is seen, said, and made
anew. Nothing is read without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from filelock import FileLock

from biencoder_ablate.utils.files import PART, open_regular, read_regular, remove, whole_file, write_text

T = TypeVar("T")

CHECKSUM = ".sha256"
"""How the name of an entry's checksum ends."""


def entry_path(cache: Path, folder: str, suffix: str, *determined_by: object) -> Path:
    """Where in the cache directory the entry lies that these values determine; their order counts."""
    text = " ".join(map(str, determined_by))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return cache / folder / f"{digest}{suffix}"


def load_entry(path: Path, read: Callable[[Path], T]) -> T | None:
    """What `read` makes of the entry, or None where there is none, or none that is as it was written.

    A damaged entry is said on standard error; whatever `read` raises counts as damage.
    """
    try:
        expected = read_regular(_checksum_file(path)).decode().strip()
    except (OSError, ValueError):
        return None
    problem = "its content is not what was written"
    try:
        if checksum(path) == expected:
            return read(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
    _say(f"note: {path} is damaged ({problem}) and is made anew")
    return None


def save_entry(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Keep what `write` writes to a binary file, whole or not at all. Raises OSError naming the file."""
    make_private(path.parent)
    # No file can take the place of a directory.
    for place in (_checksum_file(path), path):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
    _checksum_file(path).unlink(missing_ok=True)
    with whole_file(path, "wb") as file:
        write(file)
    seal(path)


def seal(path: Path) -> None:
    """Write the checksum of an entry, a file or a directory, that is whole; only then it is read."""
    write_text(_checksum_file(path), checksum(path) + "\n")


def load_or_make(
    path: Path, read: Callable[[Path], T], make: Callable[[], T], write: Callable[[T, IO[bytes]], object]
) -> T:
    """The entry as `read` has it, or else what `make` returns, which `write` then keeps.

    Processes that want the same entry wait for the first of them. Raises OSError where it cannot be kept.
    """
    found = load_entry(path, read)
    if found is not None:
        return found
    with locked_entry(path):
        found = load_entry(path, read)  # another process may have been faster
        if found is None:
            made = make()
            save_entry(path, lambda file: write(made, file))
            found = made
    return found


@contextlib.contextmanager
def locked_entry(path: Path) -> Iterator[None]:
    """Hold the lock of an entry; what a killed process had begun to write of it is removed."""
    make_private(path.parent)
    with FileLock(path.with_suffix(".lock")):
        for part in path.parent.glob(f".{path.name}.*{PART}"):
            with contextlib.suppress(OSError):
                remove(part)
        yield


def make_private(directory: Path) -> None:
    """Make a directory of the cache that only its owner can look into; one that is there keeps its rights."""
    for parent in reversed([directory, *directory.parents]):
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)


def checksum(path: Path) -> str:
    """sha256 over a file's content, or over the names and contents of all files below a directory."""
    digest = hashlib.sha256()
    if not path.is_dir():
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a buffered reader
    for file_path in sorted(path.rglob("*")):
        if file_path.is_file():
            name = file_path.relative_to(path).as_posix()
            digest.update(f"{name}\n{checksum(file_path)}\n".encode())
    return digest.hexdigest()


def _checksum_file(path: Path) -> Path:
    return path.with_name(path.name + CHECKSUM)


def _say(line: str) -> None:
    """A line on standard error, where there is one."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)

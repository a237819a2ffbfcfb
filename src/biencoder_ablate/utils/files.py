"""Files that appear whole or not at all; text and JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

PART = ".part"
"""How the name of what is not whole yet ends; it begins with a dot."""


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` for writing; on leaving without an error it becomes `path`.

    The rename is atomic and the data reaches the disk first, so that a reader, or a power cut, finds the
    old file or the new one. Raises OSError naming `path`.
    """
    encoding = None if "b" in mode else "utf-8"
    newline = None if "b" in mode else "\n"
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        give_usual_rights(Path(name))
        os.replace(name, path)
    except BaseException as error:
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(name)
        cause = _underlying(error)
        if isinstance(cause, OSError):
            raise with_path(cause, path) from error
        if cause is error:
            raise
        raise cause from error


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A temporary neighbour of `path` to write files into; on leaving without an error it becomes `path`.

    Raises OSError, naming `path` where the error names no file, or a library hides it in one of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART))
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                give_usual_rights(file)
        partial.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        cause = _underlying(error)
        if isinstance(cause, OSError) and cause.filename is None:
            raise with_path(cause, path) from error
        raise


def _underlying(error: BaseException) -> BaseException:
    """What stopped the writing. torch.save answers a failed write, or a signal during one, with a RuntimeError, and
    safetensors with an error of its own that says "… (os error 28)"."""
    cause = error
    if not isinstance(error, OSError) and (number := re.search(r"\(os error (\d+)\)", str(error))) is not None:
        return OSError(int(number[1]), os.strerror(int(number[1])))
    while isinstance(cause, RuntimeError) and cause.__context__ is not None:
        cause = cause.__context__
    return cause if isinstance(cause, OSError) or not isinstance(cause, Exception) else error


def with_path(error: OSError, path: Path) -> OSError:
    """The same error, naming the file by the path that a person knows it by."""
    return OSError(error.errno or errno.EIO, error.strerror or str(error), str(path))


def give_usual_rights(path: Path) -> None:
    """Let a file that was made for its owner alone have the rights that the umask leaves to any new file."""
    os.chmod(path, 0o666 & ~_umask())


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def remove_parts(directory: Path) -> None:
    """Delete what a killed process had begun to write in `directory` and below. Only for who holds its lock."""
    for part in directory.rglob(f".*{PART}"):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8, LF) to `path`, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def read_json(path: Path) -> Any | None:
    """The JSON in `path`, or None where the file is missing or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON-like value, indented, whole or not at all. Non-finite numbers become null."""
    write_text(path, json.dumps(replace_nonfinite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def yaml_string(text: str) -> str:
    """Any text as a JSON string that is a YAML string as well: YAML reads fewer characters literally."""
    literal = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", literal)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys, as on the command line."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            values |= flatten(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def replace_nonfinite(value: Any) -> Any:
    """The value with every NaN and infinity, at any depth, replaced by None: JSON has neither."""
    if isinstance(value, dict):
        return {key: replace_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def directory_bytes(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

"""Files that appear whole or not at all; this program's own text, JSON and YAML, checked when they are read."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

NUMBER = (int, float)
"""The type of a number in JSON, for `require`."""
_MOST_YAML_BYTES = 1_000_000
_MOST_YAML_VALUES = 100_000
"""What a YAML file of settings may come to, its aliases written out: a run's own has some hundred values."""

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
        remove(path)
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
        remove(part)


def remove(path: Path) -> None:
    """Delete a file, a directory with all in it, or a link, and not what that leads to; nothing where nothing is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_link(path: Path) -> None:
    """Raise ValueError where `path`, below which something is to be written, is a link, which may lead anywhere."""
    if path.is_symlink():
        raise ValueError(f"{path}: is a link, through which nothing is written; remove it, or put a directory there")


def append_text(path: Path, text: str) -> None:
    """Add text (UTF-8) to a regular file, made if missing. Raises OSError, for a link, a pipe or a device as well."""
    # Opening a pipe would else wait for a reader.
    kinds = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | kinds, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise with_path(error, path) from error
        raise OSError(error.errno, "no regular file; remove it", str(path)) from error
    with os.fdopen(handle, "ab") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no regular file; remove it", str(path))
        try:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
        except OSError as error:
            raise with_path(error, path) from error


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8, LF) to `path`, whole or not at all."""
    with whole_file(path) as file:
        file.write(text)


def expand_user(path: str | Path, key: str = "") -> Path:
    """A path with the home directory that its ~ stands for. Raises ValueError, naming `key` where a setting has it."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        setting = f"{key}={path}" if key else str(path)
        raise ValueError(f"{setting}: no such user here; write ./{path} for a file of that name") from error


def copy_regular(source: Path, target: Path) -> None:
    """Copy a file that is one itself: no link, which may lead anywhere, and no pipe or device. Raises ValueError."""
    try:
        with open_regular(source, getattr(os, "O_NOFOLLOW", 0)) as content, target.open("wb") as copy:
            shutil.copyfileobj(content, copy)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EINVAL):
            raise
        kind = "a link" if source.is_symlink() else "no regular file"
        raise ValueError(f"{source}: is {kind}; must be a file of the model itself, which is copied") from error


class Damaged(ValueError):
    """A file of this program's own that is not as it was written. `problem` says in what, without the path."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: damaged, {problem}")
        self.path = path
        self.problem = problem


def read_regular(path: Path) -> bytes:
    """The content of a regular file. Raises OSError, for a pipe or a device as well, which might never end."""
    with open_regular(path) as file:
        return file.read()


def read_given(path: Path) -> bytes:
    """The content of a file that a person names: a regular one, or what the shell gives for <(…) or standard input.

    Raises OSError for any other pipe or device, which might never end.
    """
    is_of_the_shell = path.parent.name == "fd" or path.name == "stdin"
    return path.read_bytes() if is_of_the_shell else read_regular(path)


def open_regular(path: Path, flags: int = 0) -> IO[bytes]:
    """Open a regular file for reading, with these flags of os.open besides. Raises OSError, naming what it is not."""
    # Opening a pipe would else wait for a writer.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(handle, "rb")


def load_json(path: Path, **fields: type | tuple[type, ...]) -> dict[str, Any]:
    """The JSON object in `path`, which must have these fields, of these types (see `require`).

    Raises OSError where there is none to read, and Damaged for anything else in its place.
    """
    try:
        value = json.loads(read_regular(path).decode())
    except (ValueError, RecursionError) as error:
        raise Damaged(path, "cannot be read as JSON") from error
    return require(path, value, **fields)


def load_json_lines(path: Path, **fields: type | tuple[type, ...]) -> list[dict[str, Any]]:
    """The JSON objects in `path`, one a line. Raises as `load_json`, naming the line."""
    values = []
    try:
        lines = read_regular(path).decode().split("\n")
    except UnicodeDecodeError as error:
        raise Damaged(path, "is not UTF-8") from error
    # The last line ends as every line does.
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Damaged(path, f"line {number} cannot be read as JSON") from error
        values.append(require(path, value, f"line {number} ", **fields))
    return values


def read_json(path: Path, **fields: type | tuple[type, ...]) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where the file is missing or damaged, which the caller tells apart if need
    be by `load_json`."""
    try:
        return load_json(path, **fields)
    except (OSError, Damaged):
        return None


def require(path: Path, value: Any, where: str = "", /, **fields: type | tuple[type, ...]) -> dict[str, Any]:
    """The value, if it is an object with these fields, of these types; no bool is a number. Raises Damaged.

    `where`: what of the file it is, for the message.
    """
    if not isinstance(value, dict):
        raise Damaged(path, f"{where}holds {_kind(value)}, not an object")
    for name, kinds in fields.items():
        if name not in value:
            raise Damaged(path, f"{where}has no {name}")
        is_allowed = isinstance(value[name], kinds)
        if isinstance(value[name], bool) and kinds is not bool:
            is_allowed = False
        if not is_allowed:
            raise Damaged(path, f"{where}has {_kind(value[name])} as its {name}")
    return value


def require_numbers(path: Path, value: Any, where: str) -> None:
    """Check that a value is a number, null, or an object that holds nothing else at any depth. Raises Damaged."""
    if isinstance(value, dict):
        for key, item in value.items():
            require_numbers(path, item, f"{where}/{key}")
    elif value is not None and (isinstance(value, bool) or not isinstance(value, NUMBER)):
        raise Damaged(path, f"has {_kind(value)} as its {where}, not a number")


def _kind(value: Any) -> str:
    """A JSON or YAML value's type in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, NUMBER) else f"a {type(value).__name__}")


def load_yaml(path: Path, kind: type = dict) -> Any:
    """The YAML in `path`, a mapping or, as `kind` says, a list. Raises OSError, and Damaged for anything else.

    A key that is given twice, a file above 1 MB, and one whose aliases come to more than 100,000 values are damage.
    """
    import yaml

    content = read_regular(path)
    try:
        check_yaml(content)
        value = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise Damaged(path, f"cannot be read as YAML ({reason}{place})") from error
    if not isinstance(value, kind):
        raise Damaged(path, f"holds {_kind(value)}, not {'a list' if kind is list else 'an object'}")
    return value


def check_yaml(content: bytes) -> None:
    """Look a YAML file over before it is built: its size, its aliases, keys that are given twice.

    Raises ValueError, yaml.YAMLError or RecursionError.
    """
    import yaml

    if len(content) > _MOST_YAML_BYTES:
        raise ValueError(f"{len(content) / 1e6:.1f} MB, where at most {_MOST_YAML_BYTES / 1e6:.0f} are read")
    root = yaml.compose(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    sizes: dict[int, int] = {}  # by node: how many values it comes to with its aliases written out; 0 while counting

    def size_of(node: yaml.Node | None) -> int:
        if node is None or isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in sizes:
            if sizes[id(node)] == 0:
                raise ValueError("an alias for what it is a part of")
            return sizes[id(node)]
        sizes[id(node)] = 0
        children = node.value
        if isinstance(node, yaml.MappingNode):
            # A merge key may stand more than once in YAML; what it is for, the loader knows.
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            twice = next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None
            if twice is not None:
                raise ValueError(f"the key {twice} is given twice")
            children = [part for pair in node.value for part in pair]
        size = 1 + sum(map(size_of, children))
        if size > _MOST_YAML_VALUES:
            raise ValueError(f"more than {_MOST_YAML_VALUES:,} values")
        sizes[id(node)] = size
        return size

    size_of(root)


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

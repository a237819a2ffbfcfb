"""Files damaged from a seed in the ways that files are damaged, and the law that every reader keeps with them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")

CPU_SECONDS = 30.0
"""Processor time, not time of the clock, after which a case counts as a hang."""
LONGEST_MESSAGE = 2000
_BIDIRECTIONAL = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}

NUMBERS = ("1e308", "1e999", "-1", "0", "nan", "inf", "-inf", "NaN", "Infinity", "0x10", "1_000", "٣", "²", "１", "1,5",
           "1e-400", "9" * 25, "9" * 400, "9" * 5000, "3.0", "-0.0", "true")  # fmt: skip
WORDS = ("", " ", "null", "None", "~", "{}", "[]", "x\x00y", "\x1b[2J", "\u202e", "\u2028", "a\nb", "\ud800", "'", '"',
         "${seed}", "${oc.env:HOME}", "=1+1", "\ufeff", "\x85", "../..", "/dev/zero", "%s", "\\", "é", "e\u0301",
         "\u200b", "x" * 200_000, *NUMBERS)  # fmt: skip
INSERTED = (b"\x00", b"\xef\xbb\xbf", b'"', b"'", b"\r", b"\n", b"\r\n", b"\t", b",", b";", b"\\", b"\x1b[31m", b"\xff",
            b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xc2\x85", b"\x0b", b"\x0c", b"\x1c", b"{", b"[", b"}",
            b"]", b":", b"#", b"&a ", b"*a", b"!!python/object:os.system ", b"${", b"-", b" ")  # fmt: skip
ENCODINGS = (
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-8-sig",
    "latin-1",
    "cp1252",
    "cp037",
    "utf-7",
    "shift_jis",
)
JSON_VALUES: tuple[Any, ...] = (None, True, False, 0, -1, 1.5, 10**30, float("nan"), float("inf"), [], {}, [1],
                                {"a": 1}, [[[]]], *WORDS)  # fmt: skip


def cases(reader: str, usual: int = 200) -> Iterator[Random]:
    """A source of random numbers for each case of a reader: `usual` many, or BIENCODER_FUZZ times as many.

    Each is named by the reader and its number, so that the cases of a short run are the first of a long one.
    """
    factor = float(os.environ.get("BIENCODER_FUZZ", "1"))
    for number in range(max(1, int(usual * factor))):
        yield Random(f"{reader} {number}")


def keeps_the_law(
    read: Callable[[], T], named: Sequence[str], shown: Callable[[], object], also: tuple = ()
) -> T | None:
    """What `read` returns, or None where it refuses in one good line: a ValueError that names one of `named`.

    Anything else fails the test, which then shows what was read: another exception, several lines, a control character,
    no name, more than LONGEST_MESSAGE characters, or more than CPU_SECONDS. `also`: other errors that may refuse.
    """
    try:
        with limited():
            return read()
    except (ValueError, *also) as error:
        message = str(error)
        problem = ""
        if isinstance(error, UnicodeError | json.JSONDecodeError):
            problem = f"a bare {type(error).__name__}"
        elif not any(name in message for name in named):
            problem = f"names none of {list(named)}"
        elif found := steering(message):
            problem = f"has {found} in it"
        elif len(message) > LONGEST_MESSAGE:
            problem = f"has {len(message)} characters"
        if problem:
            raise AssertionError(f"the refusal {problem}: {message[:500]!r}\nof {shown()!r:.1500}") from error
        return None
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:500]}\nof {shown()!r:.1500}") from error


def steering(text: str) -> list[str]:
    """The characters of a text that end a line, steer a terminal, or cannot be written."""
    return sorted({ascii(letter) for letter in text if _steers(letter)})


def _steers(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") or ord(letter) in _BIDIRECTIONAL


class Hang(BaseException):
    """Not an Exception: nothing that reads takes it for its own."""


@contextlib.contextmanager
def limited(seconds: float = CPU_SECONDS) -> Iterator[None]:
    """Raise Hang in what takes more processor time than this."""

    def stop(*_: object) -> None:
        raise Hang(f"more than {seconds:.0f} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# --- bytes ---


def damaged(some: Random, content: bytes, separator: bytes = b",") -> bytes:
    """The content with one to three damages of any kind."""
    kinds = (_cut, _cut_out, _flip, _replace, _insert, _insert, _lines, _lines, _cells, _cells, _token, _token, _whole)
    for _ in range(some.choice((1, 1, 1, 2, 3))):
        content = some.choice(kinds)(some, content, separator)
    return content


def _place(some: Random, content: bytes) -> int:
    return some.randrange(len(content) + 1)


def _cut(some: Random, content: bytes, separator: bytes) -> bytes:
    return content[: _place(some, content)]


def _cut_out(some: Random, content: bytes, separator: bytes) -> bytes:
    start, end = sorted((_place(some, content), _place(some, content)))
    return content[:start] + content[end:]


def _flip(some: Random, content: bytes, separator: bytes) -> bytes:
    if not content:
        return content
    place = some.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << some.randrange(8))]) + content[place + 1 :]


def _replace(some: Random, content: bytes, separator: bytes) -> bytes:
    place = _place(some, content)
    return content[:place] + some.randbytes(some.choice((1, 1, 4, 40))) + content[place + 1 :]


def _insert(some: Random, content: bytes, separator: bytes) -> bytes:
    place = some.choice((0, _place(some, content), _place(some, content), len(content)))
    return content[:place] + some.choice(INSERTED) + content[place:]


def _lines(some: Random, content: bytes, separator: bytes) -> bytes:
    """A line twice, left out, emptied, moved to elsewhere, or all with other ends."""
    lines = content.split(b"\n")
    a, b = some.randrange(len(lines)), some.randrange(len(lines))
    kind = some.randrange(6)
    if kind == 0:
        lines.insert(b, lines[a])
    elif kind == 1:
        del lines[a]
    elif kind == 2:
        lines[a] = b""
    elif kind == 3:
        lines[a], lines[b] = lines[b], lines[a]
    elif kind == 4:
        lines.insert(b, some.choice((b" ", separator * 3, b"#", b"---", b"...", b"[", b"{")))
    return some.choice((b"\r\n", b"\r", b"\n", b"\n\n")).join(lines) if kind == 5 else b"\n".join(lines)


def _cells(some: Random, content: bytes, separator: bytes) -> bytes:
    """In a line, or in all: two cells exchanged, one left out, one more, or one of another kind."""
    lines = [line.split(separator) for line in content.split(b"\n")]
    a, b = some.randrange(20), some.randrange(20)
    kind, word = some.randrange(4), some.choice(WORDS).encode("utf-8", "surrogatepass")
    for cells in lines if some.random() < 0.3 else [some.choice(lines)]:
        i, j = a % len(cells), b % len(cells)
        if kind == 0:
            cells[i], cells[j] = cells[j], cells[i]
        elif kind == 1:
            del cells[i]
        elif kind == 2:
            cells.insert(i, word)
        else:
            cells[i] = word
    return b"\n".join(separator.join(cells) for cells in lines)


def _token(some: Random, content: bytes, separator: bytes) -> bytes:
    """A number or a word replaced by another, in one place or in all."""
    tokens = [token for token in content.replace(separator, b" ").split() if len(token) < 200]
    if not tokens:
        return content
    word = some.choice(WORDS).encode("utf-8", "surrogatepass")
    return content.replace(some.choice(tokens).strip(b'"{}[]:,'), word, some.choice((1, -1)))[:4_000_000]


def _whole(some: Random, content: bytes, separator: bytes) -> bytes:
    """Of the whole: nothing, zeros, noise, twice itself, another encoding, deep nesting before, inside or after it."""
    kind = some.randrange(7)
    if kind == 0:
        return b""
    if kind == 1:
        return bytes(some.choice((1, len(content))))
    if kind == 2:
        return some.randbytes(some.randrange(200))
    if kind == 3:
        return content + content
    if kind == 4:
        nested = some.choice((b"[", b'{"a":', b"- ", b"{a: ", b"(", b'"')) * some.choice((50, 1000, 100_000))
        place = some.choice((0, _place(some, content), len(content)))
        return content[:place] + nested + content[place:]
    text = content.decode("utf-8", "replace")
    return text.encode(some.choice(ENCODINGS), "replace")


# --- values ---


def damaged_value(some: Random, value: Any) -> Any:
    """A copy of a JSON-like value with something in it exchanged, left out, renamed, wrapped or moved."""
    value = json.loads(json.dumps(value))
    for _ in range(some.choice((1, 1, 1, 2, 3))):
        value = _damage_inside(some, value)
    return value


def _damage_inside(some: Random, value: Any) -> Any:
    if isinstance(value, dict | list) and value and some.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = some.choice(keys)
        kind = some.randrange(6)
        if kind < 3:
            value[key] = _damage_inside(some, value[key])
        elif kind == 3:
            del value[key]
        elif kind == 4:
            other = some.choice(keys)
            value[key], value[other] = value[other], value[key]
        elif isinstance(value, dict):
            value[some.choice(WORDS)] = value.pop(key)
        else:
            value.append(value[key])
        return value
    return some.choice((*JSON_VALUES, [value], {"a": value}, str(value)))


def damaged_json(some: Random, content: bytes) -> bytes:
    """JSON, or lines of JSON objects, with a value in it damaged, or a byte."""
    if some.random() < 0.35:
        return damaged(some, content)
    try:
        text = json.dumps(damaged_value(some, json.loads(content)), ensure_ascii=some.random() < 0.5)
    except ValueError:
        lines = content.split(b"\n")
        place = some.choice([number for number, line in enumerate(lines) if line.strip()])
        changed = json.dumps(damaged_value(some, json.loads(lines[place])), ensure_ascii=some.random() < 0.5)
        lines[place] = changed.encode("utf-8", "surrogatepass")
        return b"\n".join(lines)
    return text.encode("utf-8", "surrogatepass")


def damaged_yaml(some: Random, content: bytes) -> bytes:
    """YAML with a value in it damaged, or a byte."""
    import yaml

    if some.random() < 0.5:
        return damaged(some, content, b": ")
    value = damaged_value(some, yaml.safe_load(content))
    with contextlib.suppress(yaml.YAMLError):
        return yaml.safe_dump(value, allow_unicode=some.random() < 0.5).encode("utf-8", "surrogatepass")
    return json.dumps(value).encode()


def damage_one(some: Random, directory: Path, names: Sequence[str]) -> tuple[str, bytes]:
    """Damage one of these files of a directory in the way of its kind; which it was, and what it holds now.

    It may also vanish, or have a directory in its place.
    """
    name = some.choice(names)
    path = directory / name
    content = path.read_bytes()
    kinds = {".json": damaged_json, ".jsonl": damaged_json, ".yaml": damaged_yaml}
    changed = kinds.get(path.suffix, damaged)(some, content)
    chance = some.random()
    if chance < 0.03:
        path.unlink()
        return name, b"(deleted)"
    if chance < 0.05:
        path.unlink()
        path.mkdir()
        return name, b"(a directory)"
    path.write_bytes(changed)
    return name, changed

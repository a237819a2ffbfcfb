"""Writes docs/configuration.md from the schema and conf/: every group's choices, every key, its default, what is valid.

python scripts/configuration_page.py            # write the page
python scripts/configuration_page.py --check    # exit 1 where the page is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from biencoder_ablate.config.compose import load_config
from biencoder_ablate.config.schema import Config

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
HEAD = """# Configuration

<!-- Written by scripts/configuration_page.py from the schema and conf/; edit those. -->

Choose from a group with `head=relu` and set a key with `training.epochs=5`; with `-m`, commas or `range(0,8)` sweep
either. `python -m biencoder_ablate --cfg job` prints the composed settings of a command line. *Default* is the value
without options, followed by that of `recipe=study` if it differs. Keys with *yes* under *name* are part of the run's
name: another value makes another run. The other keys never change a metric.
"""


def choices(group: str) -> Iterator[str]:
    """A line for each YAML of a group: its name, and what the comment below its command says."""
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        comments = [line[2:] for line in path.read_text("utf-8").splitlines() if line.startswith("# ")]
        said = " ".join(line for line in comments if not line.startswith(("@package", "python -m")))
        yield f"- `{group}={path.stem}`" + (f": {said}" if said else "")


def rows(default: Any, study: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(group or "", a table line) for every key, in the schema's order."""
    for item in fields(default):
        value, other = getattr(default, item.name), getattr(study, item.name)
        if is_dataclass(value):
            yield from rows(value, other, f"{item.name}.")
            continue
        shown = f"`{spelt(value)}`" + (f"; study `{spelt(other)}`" if other != value else "")
        named = {True: "yes", False: "", "changed": "yes, where changed"}[item.metadata["names_run"]]
        yield prefix[:-1], f"| `{prefix}{item.name}` | {shown} | {item.metadata['valid']} | {named} |"


def spelt(value: Any) -> str:
    """As one would type it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def page() -> str:
    """The whole page."""
    table: dict[str, list[str]] = {}
    for group, line in rows(load_config([]), load_config(["recipe=study"])):
        table.setdefault(group, []).append(line)
    groups = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "hydra")
    classes = {item.name: item.default_factory for item in fields(Config)}
    docstrings = {name: kind.__doc__ for name, kind in classes.items() if is_dataclass(kind)}
    parts = [HEAD]
    for group in ["", *(item.name for item in fields(Config) if item.name in table), *groups]:
        # The groups come again in the second list: each has had its section then.
        if group not in groups and group not in table:
            continue
        parts.append(f"## {group or 'Top'}\n")
        if docstrings.get(group):
            parts.append(" ".join(docstrings[group].split()) + "\n")
        if group in groups:
            groups.remove(group)
            parts.append("\n".join(choices(group)) + "\n")
        if group in table:
            parts.append("| key | default | valid | name |\n|---|---|---|---|\n" + "\n".join(table.pop(group)) + "\n")
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text("utf-8") != text:
        print("docs/configuration.md is not what the schema says: run python scripts/configuration_page.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A corpus of the FAQ kind from Debian package descriptions: the short description asks, the long one answers.

    python scripts/debian_pairs.py my_pairs.csv
    python -m biencoder_ablate data=pairs data.path=my_pairs.csv

Reads the packages that are installed here, whose long descriptions dpkg keeps (/var/lib/dpkg/status), or any file of
the same form (--status). Packages built from one source say much the same: they are one debate, and are never in two
splits. A package without a long description asks nothing. Which packages there are depends on the machine.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from biencoder_ablate.data.readers import split_debates
from biencoder_ablate.utils.files import write_text

STATUS = Path("/var/lib/dpkg/status")


@dataclass(frozen=True)
class Package:
    """A package's name, the source it is built from, its section, and its two descriptions."""

    name: str
    source: str
    section: str
    short: str
    long: str


def main() -> int:
    """Write the table and say how much is in it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.csv", type=Path)
    parser.add_argument("--status", type=Path, default=STATUS, help=f"default {STATUS}")
    parser.add_argument("--split-seed", type=int, default=0, metavar="N", help="which sources go where (default 0)")
    arguments = parser.parse_args()

    packages = list(read_packages(arguments.status.read_text("utf-8")))
    if len({package.source for package in packages}) < 3:
        print(f"{arguments.status}: fewer than 3 sources with long descriptions", file=sys.stderr)
        return 1
    write_text(arguments.out, pairs_csv(packages, arguments.split_seed))
    num_sources = len({package.source for package in packages})
    print(f"{arguments.out}: {len(packages)} pairs of {num_sources} source packages")
    return 0


def read_packages(status: str) -> Iterator[Package]:
    """The packages of a status file that have a long description, in order of their names, each name once."""
    by_name: dict[str, Package] = {}
    for stanza in status.split("\n\n"):
        fields = _fields(stanza)
        short, *lines = fields.get("Description", "").split("\n")
        # A line with a dot alone parts paragraphs.
        words = " ".join(line for line in lines if line != ".").split()
        if not short.strip() or not words:
            continue
        name = fields["Package"]
        # "Source: gcc-12 (12.2.0-14)" where the version is another.
        source = fields.get("Source", name).split(" ")[0]
        by_name.setdefault(name, Package(name, source, fields.get("Section", ""), short.strip(), " ".join(words)))
    for name in sorted(by_name):
        yield by_name[name]


def _fields(stanza: str) -> dict[str, str]:
    """The fields of a stanza; what is continued is on lines that begin with a blank, which is taken off."""
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.strip("\n").split("\n"):
        if line.startswith((" ", "\t")):
            fields[key] += f"\n{line.strip()}"
        else:
            key, _, value = line.partition(":")
            fields[key] = value.strip()
    return fields


def pairs_csv(packages: list[Package], split_seed: int) -> str:
    """The table: point, counter, split, theme, debate. A source has one theme, the section of its first package."""
    theme_of: dict[str, str] = {}
    for package in packages:
        theme_of.setdefault(package.source, package.section)
    split_of = split_debates([(theme, source) for source, theme in theme_of.items()], split_seed)

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["point", "counter", "split", "theme", "debate"])
    for package in packages:
        theme = theme_of[package.source]
        split = split_of[theme, package.source]
        writer.writerow([package.short, package.long, split, theme, package.source])
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())

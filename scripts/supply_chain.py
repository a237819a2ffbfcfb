"""Writes docs/licences.md and sbom.json from requirements.lock and the installed packages, and renews the lock itself.

python scripts/supply_chain.py                  # write both, in an environment that was installed by the lock
python scripts/supply_chain.py --check          # exit 1 where lock, pins, licences and bill of materials disagree
python scripts/supply_chain.py --renew --find-links DIRECTORY   # the lock first, with uv

What follows --renew goes to `uv pip compile`: where it finds the CPU build of PyTorch, which the package index that
it asks by itself does not have. The bill of materials is CycloneDX 1.6.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PINS = ROOT / "constraints.txt"
PAGE = ROOT / "docs" / "licences.md"
BILL = ROOT / "sbom.json"
EXTRAS = ("test", "minilm")
COMPILE = ("uv", "pip", "compile", "--no-config", "--quiet", "--generate-hashes", "--python-version", "3.11",
           "-c", "constraints.txt", "--extra", "test", "--extra", "minilm", "--no-header",
           "pyproject.toml", "-o", "requirements.lock")  # fmt: skip
LOCK_HEAD = """\
# For Python 3.11 on Linux, x86-64: the versions, and of torch the only file, are this platform's. The other hashes are
# those of every file of a release. Written by scripts/supply_chain.py --renew; docs/reliability.md says how to use it.
"""
PAGE_HEAD = """# Licences

<!-- Written by scripts/supply_chain.py from requirements.lock and the installed packages. -->

What the first line of the README installs (the extras `test` and `minilm`), and the licence that each package states
in its own metadata: an SPDX expression where it has one, otherwise its own word for it. `sbom.json` lists the same
packages with their hashes (CycloneDX 1.6). biencoder-ablate itself is under the MIT licence.

| package | version | licence |
|---|---|---|
"""
LONGEST_NAME = 60
"""Characters of the field License that still are a licence's name; longer ones are its text."""


@dataclass(frozen=True)
class Locked:
    """A package of the lock."""

    name: str
    version: str
    hashes: tuple[str, ...]
    """SHA-256 of its files, in hexadecimal."""


@dataclass(frozen=True)
class Licence:
    """What a package states: an SPDX expression, or a name of its own."""

    text: str
    is_expression: bool


def normalized(name: str) -> str:
    """A package's name as PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> list[Locked]:
    """The packages of a lock in its order. Raises ValueError for a line that is none, or one without hashes."""
    packages = []
    whole = text.replace("\\\n", " ")
    for line in whole.splitlines():
        stripped = line.partition(" #")[0].strip()
        if not stripped or stripped.startswith("#"):
            continue
        matched = re.fullmatch(r"([\w.-]+)==(\S+)((?:\s+--hash=sha256:[0-9a-f]{64})+)", stripped)
        if matched is None:
            raise ValueError(f"{LOCK.name}: {stripped[:80]!r} is not NAME==VERSION with sha256 hashes")
        name, number, hashes = matched.groups()
        found = re.findall(r"sha256:([0-9a-f]{64})", hashes)
        packages.append(Locked(normalized(name), number, tuple(found)))
    return packages


def licence(stated: PackageMetadata) -> Licence:
    """The licence in a package's metadata: License-Expression, or a short License, or its classifiers.

    A field License that holds the whole text of a licence gives way to the classifiers.
    """
    expression = stated.get("License-Expression")
    if expression:
        return Licence(expression, True)
    name = (stated.get("License") or "").strip()
    is_name = 0 < len(name) <= LONGEST_NAME and "\n" not in name
    if is_name and name != "UNKNOWN":
        return Licence(name, False)
    classifiers = [line for line in stated.get_all("Classifier") or [] if line.startswith("License ::")]
    last_parts = [line.rpartition(" :: ")[2] for line in classifiers]
    names = [part for part in last_parts if part != "OSI Approved"]
    return Licence(" or ".join(names) or "not stated", False)


def installed(package: Locked) -> Licence | None:
    """The licence of this very version, where it is installed."""
    try:
        if version(package.name) != package.version:
            return None
        return licence(metadata(package.name))
    except PackageNotFoundError:
        return None


def page(packages: Iterable[Locked], licences: dict[str, Licence]) -> str:
    rows = [f"| {item.name} | {item.version} | {licences[item.name].text} |\n" for item in packages]
    return PAGE_HEAD + "".join(rows)


def component(package: Locked, stated: Licence) -> dict[str, Any]:
    """A package in the words of CycloneDX."""
    purl = f"pkg:pypi/{package.name}@{package.version.replace('+', '%2B')}"
    said = {"expression": stated.text} if stated.is_expression else {"license": {"name": stated.text}}
    return {
        "type": "library",
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
        "licenses": [said],
        "hashes": [{"alg": "SHA-256", "content": content} for content in package.hashes],
    }


def bill(packages: Iterable[Locked], licences: dict[str, Licence], own_version: str) -> str:
    """The bill of materials. It has no date and no serial number, so that the same lock gives the same file."""
    own = {
        "type": "application",
        "bom-ref": "biencoder-ablate",
        "name": "biencoder-ablate",
        "version": own_version,
        "licenses": [{"license": {"id": "MIT"}}],
    }
    written = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": [component(item, licences[item.name]) for item in packages],
    }
    return json.dumps(written, indent=1, ensure_ascii=False) + "\n"


def licences_of(written: dict[str, Any]) -> dict[str, Licence]:
    """What a bill of materials says of each package."""
    found = {}
    for item in written["components"]:
        said = item["licenses"][0]
        is_expression = "expression" in said
        text = said["expression"] if is_expression else said["license"]["name"]
        found[item["name"]] = Licence(text, is_expression)
    return found


def unpinned(packages: Iterable[Locked], pins: str) -> list[str]:
    """What the lock has in another version than constraints.txt; a local version (+cpu) is the same release."""
    pinned = {}
    for line in pins.splitlines():
        name, is_pin, number = line.partition("==")
        if is_pin:
            pinned[normalized(name)] = number.strip()
    wrong = []
    for item in packages:
        wanted = pinned.get(item.name, item.version)
        if wanted not in (item.version, item.version.partition("+")[0]):
            wrong.append(f"{LOCK.name}: {item.name} is {item.version}, and {PINS.name} has {wanted}")
    return wrong


def missing(packages: Iterable[Locked], project: dict[str, Any]) -> list[str]:
    """What pyproject.toml asks for with the extras of the lock, and the lock has not."""
    optional = project["optional-dependencies"]
    asked, left = list(project["dependencies"]), list(EXTRAS)
    while left:
        for requirement in optional[left.pop()]:
            own = re.fullmatch(r"biencoder-ablate\[(.+)\]", requirement)
            if own is None:
                asked.append(requirement)
            else:
                left.extend(own.group(1).split(","))
    names = {normalized(re.split(r"[^\w.-]", requirement)[0]) for requirement in asked}
    locked = {item.name for item in packages}
    return [f"{LOCK.name}: {name} is missing, which pyproject.toml asks for" for name in sorted(names - locked)]


def wrong(find: Callable[[Locked], Licence | None] = installed) -> list[str]:
    """What disagrees, a line for each; empty where all is as it would be written.

    The licences are held against the installed packages where these have the lock's version, and only there.
    """
    packages = read_lock(LOCK.read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    said = unpinned(packages, PINS.read_text("utf-8")) + missing(packages, project)
    kept = json.loads(BILL.read_text("utf-8"))
    licences = licences_of(kept)
    for item in packages:
        licences[item.name] = find(item) or licences.get(item.name, Licence("not stated", False))
    own_version = kept["metadata"]["component"]["version"]
    expected = {PAGE: page(packages, licences), BILL: bill(packages, licences, own_version)}
    for path, text in expected.items():
        if path.read_text("utf-8") != text:
            said.append(f"{path.relative_to(ROOT)} is not what the lock says; run python scripts/supply_chain.py")
    return said


def renew(options: list[str]) -> None:
    """Resolve the lock anew, with uv's `options`. Raises ValueError where torch is not the build for CPUs."""
    before = LOCK.read_text("utf-8")
    subprocess.run([*COMPILE, *options], cwd=ROOT, check=True)
    text = LOCK.read_text("utf-8")
    (torch,) = [item for item in read_lock(text) if item.name == "torch"]
    if not torch.version.endswith("+cpu"):
        LOCK.write_text(before, "utf-8")
        raise ValueError(f"torch {torch.version}: is not the CPU build; tell uv where that is, with --find-links")
    LOCK.write_text(LOCK_HEAD + text, "utf-8")


def write() -> None:
    """Write both files. Raises ValueError where the environment was not installed by the lock."""
    packages = read_lock(LOCK.read_text("utf-8"))
    found = {item.name: installed(item) for item in packages}
    absent = [f"{item.name}=={item.version}" for item in packages if found[item.name] is None]
    if absent:
        raise ValueError(f"not installed: {', '.join(absent)}; run pip install --require-hashes -r {LOCK.name}")
    licences = {name: stated for name, stated in found.items() if stated is not None}
    source = (ROOT / "src" / "biencoder_ablate" / "version.py").read_text("utf-8")
    (own_version,) = re.findall(r'^__version__ = "(.+)"', source, re.MULTILINE)
    PAGE.write_text(page(packages, licences), "utf-8")
    BILL.write_text(bill(packages, licences, own_version), "utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say what disagrees, and write nothing")
    parser.add_argument("--renew", nargs=argparse.REMAINDER, help="resolve the lock anew; what follows goes to uv")
    arguments = parser.parse_args(argv)
    try:
        if arguments.check:
            said = wrong()
            print("\n".join(said), end="\n" if said else "", file=sys.stderr)
            return int(bool(said))
        if arguments.renew is not None:
            renew(arguments.renew)
        else:
            write()
        return 0
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

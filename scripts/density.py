"""How dense the source is: code lines, syntax nodes, nodes a line, comments and functions referenced once, by file.

    python scripts/density.py                       # src/biencoder_ablate
    python scripts/density.py path/to/another/tree

A syntax node is an ast.expr or an ast.stmt. A code line is one that holds more than a comment or a docstring. A
function counts as referenced once when its name stands in one place of the tree beside its definition; of those, one
that means nothing by itself belongs inside its caller. It is a mirror and not a gate: nothing fails on it.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "biencoder_ablate"


@dataclass(frozen=True)
class Density:
    """What was counted in one file."""

    name: str
    code_lines: int
    nodes: int
    comments: int
    functions: tuple[str, ...]


def measure(path: Path, root: Path) -> Density:
    """Count the lines, syntax nodes, comments and top-level functions of one file."""
    source = path.read_text("utf-8")
    tree = ast.parse(source)

    docstring_lines: set[int] = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):
            docstring_lines.update(range(node.lineno, node.end_lineno + 1))

    code_lines, comments = 0, 0
    for number, line in enumerate(source.splitlines(), 1):
        text = line.strip()
        if not text or number in docstring_lines:
            continue
        if text.startswith("#"):
            comments += 1
        else:
            code_lines += 1

    nodes = sum(isinstance(node, ast.expr | ast.stmt) for node in ast.walk(tree))
    functions = tuple(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return Density(str(path.relative_to(root)), code_lines, nodes, comments, functions)


def references(path: Path) -> Iterator[str]:
    """Every name that a file uses, imports or looks up as an attribute."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def main() -> None:
    """Print a line for each file, the densest first, and the sum of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("root", type=Path, nargs="?", default=PACKAGE, help="a folder of Python files")
    root = parser.parse_args().root.resolve()

    paths = sorted(root.rglob("*.py"))
    files = [measure(path, root) for path in paths]
    files = [file for file in files if file.code_lines]
    used: Counter[str] = Counter()
    for path in paths:
        used.update(references(path))

    def row(name: str, group: list[Density]) -> str:
        lines = sum(file.code_lines for file in group)
        nodes = sum(file.nodes for file in group)
        comments = sum(file.comments for file in group)
        once = sum(used[function] == 1 for file in group for function in file.functions)
        per_line = nodes / lines
        per_hundred = 100 * comments / lines
        return f"{name:32} {lines:6} {nodes:7} {per_line:6.1f} {per_hundred:8.1f} {once:6}"

    print(f"{'file':32} {'lines':>6} {'nodes':>7} {'a line':>6} {'comments':>8} {'once':>6}")
    for file in sorted(files, key=lambda file: -file.nodes / file.code_lines):
        print(row(file.name, [file]))
    print(row(f"{len(files)} files", files))


if __name__ == "__main__":
    main()

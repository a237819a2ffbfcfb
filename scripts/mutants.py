"""Change the source in small ways, one at a time, and see whether the tests notice.

    python scripts/mutants.py --number 40 --seed 0
    python scripts/mutants.py --modules evaluation/metrics report/statistics

A mutant is one syntax node changed: a comparison turned round, + for −, a number moved by one, `and` for `or`, a
condition denied, a keyword left out, `sorted` become `list`, a raise or another statement dropped. Each takes the place
of its module in a Python of its own, which runs the tests that import the module; no file of the repository changes. A
mutant is killed where a test fails, or where the tests take far longer than without it. Survivors are printed, to be
read: each is equivalent, harmless, or a hole in the tests. Needs Linux or macOS.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "biencoder_ablate"
TESTS = ROOT / "tests"
DECIDING = (
    "data/corpus",
    "data/text_table",
    "data/tabular",
    "data/words",
    "evaluation/baselines",
    "evaluation/candidates",
    "evaluation/distances",
    "evaluation/lexical",
    "evaluation/metrics",
    "evaluation/pair_scores",
    "evaluation/protocols",
    "evaluation/ranking",
    "model/biencoder",
    "model/heads",
    "report/comparisons",
    "report/diagnostics",
    "report/statistics",
    "runs/identity",
    "runs/records",
    "training/losses",
    "training/negatives",
    "utils/arrays",
    "utils/seeding",
)
"""The modules that decide a figure and can be tested in their own process."""
SLOWER = 5
"""How many times the processor time of the unchanged tests a mutant may take, and beside that: 20 seconds."""
SPARE_SECONDS = 20

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True)
class Mutant:
    """One change: the module, the line, what stood there and what stands there now, and the whole changed tree."""

    module: str
    line: int
    before: str
    after: str
    tree: ast.Module


# --- making them ---


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a module, such as "evaluation/metrics", in order of its source."""
    tree = ast.parse((SOURCE / f"{module}.py").read_text("utf-8"))
    mutants = []
    for number, node in enumerate(ast.walk(tree)):
        for change in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(other for place, other in enumerate(ast.walk(changed)) if place == number)
            before = _shown(target)
            change(target)
            ast.fix_missing_locations(changed)
            line = getattr(node, "lineno", 0)
            mutants.append(Mutant(module, line, before, _shown(target), changed))
    return sorted(mutants, key=lambda mutant: mutant.line)


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:90]


def _changes(node: ast.AST) -> Iterator[Callable[..., None]]:
    """What may be done to a node, each as a function that does it to the node's copy."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        yield _other_comparison
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield _other_operator
    elif isinstance(node, ast.BoolOp):
        yield _other_connective
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield _next_number
    elif isinstance(node, ast.If | ast.IfExp) and not _is_type_checking(node.test):
        yield _denied
    elif isinstance(node, ast.Call) and _is_sorting(node):
        yield _unsorted
    elif isinstance(node, ast.Call) and node.keywords:
        yield _without_last_keyword
    for name in ("body", "orelse"):
        statements = getattr(node, name, None)
        if isinstance(statements, list) and not isinstance(node, ast.Module | ast.ClassDef):
            for place, statement in enumerate(statements):
                if isinstance(statement, ast.Raise | ast.AugAssign) or _is_call(statement):
                    yield _dropped(name, place)


def _other_comparison(node: ast.Compare) -> None:
    node.ops = [COMPARISONS[type(node.ops[0])]()]


def _other_operator(node: ast.BinOp) -> None:
    node.op = ARITHMETIC[type(node.op)]()


def _other_connective(node: ast.BoolOp) -> None:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _next_number(node: ast.Constant) -> None:
    node.value = node.value + 1  # type: ignore[operator]


def _denied(node: ast.If | ast.IfExp) -> None:
    node.test = ast.UnaryOp(ast.Not(), node.test)


def _unsorted(node: ast.Call) -> None:
    node.func = ast.Name("list", ast.Load())
    node.keywords = []


def _without_last_keyword(node: ast.Call) -> None:
    node.keywords = node.keywords[:-1]


def _dropped(name: str, place: int) -> Callable[[ast.AST], None]:
    def drop(node: ast.AST) -> None:
        getattr(node, name)[place] = ast.Pass()

    return drop


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _is_sorting(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == "sorted"


def _is_call(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)


# --- trying them ---


_CHILD = """
import importlib.abc, importlib.util, sys
import pytest

module, path, changed, *options = sys.argv[1:]


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path_=None, target=None):
        return importlib.util.spec_from_file_location(name, path, loader=self) if name == module else None

    def exec_module(self, loaded):
        with open(changed, encoding="utf-8") as source:
            exec(compile(source.read(), path, "exec"), loaded.__dict__)


sys.meta_path.insert(0, Changed())
sys.exit(pytest.main(options))
"""
"""A Python that takes one module of the package from a changed source rather than from its file, and runs tests."""


def tests_of(module: str) -> list[Path]:
    """The files of tests that import a module, its own first; those that start programs are left out as too slow."""
    package, name = module.rsplit("/", 1)
    dotted = f"biencoder_ablate.{package.replace('/', '.')}"
    pattern = re.compile(
        rf"from {dotted}\.{name} import|from {dotted} import [^\n]*\b{name}\b|import {dotted}\.{name}\b"
    )
    mirrored = TESTS / package / f"test_{name}.py"
    chosen = [mirrored] if mirrored.exists() else []
    for file in sorted(TESTS.glob("**/test_*.py")):
        text = file.read_text("utf-8")
        starts_programs = "run_python(" in text or "run_program(" in text or "finished_" in text
        if file not in chosen and pattern.search(text) and not starts_programs:
            chosen.append(file)
    return chosen


def run_tests(tests: Sequence[Path], module: str, source: str, cpu_seconds: int, folder: Path) -> tuple[bool, float]:
    """Run tests over a module of that source: whether all passed in the time allowed, and the processor time taken."""
    changed = folder / "changed.py"
    changed.write_text(source, "utf-8")
    dotted = f"biencoder_ablate.{module.replace('/', '.')}"
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow and not gpu"]
    options += ["--basetemp", str(folder / "tests"), *map(str, tests)]
    command = [sys.executable, "-c", _CHILD, dotted, str(SOURCE / f"{module}.py"), str(changed), *options]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(TESTS)]),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }

    def limit_time() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=limit_time,
            timeout=10 * cpu_seconds,  # one that waits for ever uses no processor time
        )
        passed = ended.returncode == 0
    except subprocess.TimeoutExpired:
        passed = False
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return passed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="*", default=list(DECIDING), help="such as evaluation/metrics")
    parser.add_argument("--number", type=int, default=300, help="how many mutants to draw among all of them")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    everything = [mutant for module in arguments.modules for mutant in mutants_of(module)]
    generator = np.random.default_rng(arguments.seed)
    drawn = generator.permutation(len(everything))[: arguments.number]
    by_module: dict[str, list[Mutant]] = defaultdict(list)
    for place in sorted(drawn.tolist()):
        by_module[everything[place].module].append(everything[place])
    print(f"{len(everything)} mutants of {len(arguments.modules)} modules, {len(drawn)} drawn by seed {arguments.seed}")

    num_killed = num_tried = 0
    with tempfile.TemporaryDirectory() as name:
        for module, mutants in by_module.items():
            survivors = _survivors(module, mutants, Path(name))
            if survivors is None:
                print(f"{module}: there are no tests of it alone, or they fail without a change: left out", flush=True)
                continue
            num_tried += len(mutants)
            num_killed += len(mutants) - len(survivors)
            print(f"{module}: {len(mutants) - len(survivors)} of {len(mutants)} killed", flush=True)
            for mutant in survivors:
                print(f"  line {mutant.line}: {mutant.before}  →  {mutant.after}", flush=True)
    print(f"{num_killed} of {num_tried} killed ({num_killed / max(1, num_tried):.0%})")
    return 0


def _survivors(module: str, mutants: Sequence[Mutant], folder: Path) -> list[Mutant] | None:
    """The mutants of a module that its tests let pass; None where the tests say nothing of the module as it is."""
    tests = tests_of(module)
    unchanged = (SOURCE / f"{module}.py").read_text("utf-8")
    passed, seconds = run_tests(tests, module, unchanged, 600, folder)
    if not tests or not passed:
        return None
    allowed = round(SLOWER * seconds + SPARE_SECONDS)
    survivors = []
    for mutant in mutants:
        survived, _ = run_tests(tests, module, ast.unparse(mutant.tree), allowed, folder)
        if survived:
            survivors.append(mutant)
    return survivors


if __name__ == "__main__":
    sys.exit(main())

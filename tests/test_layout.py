"""The house itself: imports run one way, nothing heavy comes before it is needed, names are kept apart."""

import ast
import json
from pathlib import Path

import pytest
from helpers import PACKAGE, run_python

# Design §4: entry points → training, report → evaluation, runs → model → data → config.
LAYERS = [
    {"files", "seeding", "text", "__init__"},
    {"config"},
    {"registry"},
    {"data"},
    {"model"},
    {"evaluation", "runs"},
    {"training", "report"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """The part of the house that a module (dotted, below the package) belongs to; entry points are one part."""
    if module == "__main__" or module.endswith(".__main__"):
        return "entry point"
    first = module.split(".")[0] or "__init__"
    return first if any(first in layer for layer in LAYERS) else "entry point"


def layer_of(module: str) -> int:
    return next((i for i, layer in enumerate(LAYERS) if part_of(module) in layer), len(LAYERS))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it, dotted and below the package."""
    known = {name_of(module) for module in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "biencoder_ablate":
                continue
            below = name.removeprefix("biencoder_ablate").lstrip(".")
            while below not in known:  # what is imported from a module, rather than the module
                below = below.rpartition(".")[0]
            found.add(below)
    return found


def test_imports_run_one_way():
    """Down the layers, or within one part; never up, and never from one part to its neighbour.

    The package's own file, its door, is left out: `load` opens a run when it is called, and the import loads nothing.
    """
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in MODULES
        if name_of(path)
        for imported in sorted(imports_of(path))
        if part_of(imported) != part_of(name_of(path)) and layer_of(imported) >= layer_of(name_of(path))
    ]
    assert wrong == []


def test_every_layer_is_there_and_imports_are_seen():
    """Guards the test above against finding nothing."""
    parts = {part_of(name_of(path)) for path in MODULES}
    assert {"config", "data", "model", "evaluation", "runs", "training", "entry point"} <= parts
    assert "data.corpus" in imports_of(PACKAGE / "data" / "readers.py")
    assert "training.experiment" in imports_of(PACKAGE / "cli.py"), "an import inside a function"
    descending = ("training.experiment", "runs.directory", "model.load", "data.readers", "registry", "config")
    layers = [layer_of(module) for module in descending]
    assert layers == sorted(set(layers), reverse=True)


def test_model_evaluation_loss_and_negatives_never_see_the_config():
    """They take plain arguments (design §4). What finds and restores a model's files may know its groups."""
    groups_known = {"model/encoder.py", "model/saved.py"}
    plain = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in ("model", "evaluation")]
    plain += [PACKAGE / "training" / f"{name}.py" for name in ("losses", "negatives")]
    for path in plain:
        allowed = {"ConfigError"}
        if path.relative_to(PACKAGE).as_posix() in groups_known:
            allowed |= {"ModelConfig", "DataConfig"}
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "biencoder_ablate.config":
                assert {alias.name for alias in node.names} <= allowed, path


HEAVY = (
    "torch",
    "transformers",
    "tokenizers",
    "scipy",
    "matplotlib",
    "pandas",
    "joblib",
    "tensorboard",
    "wandb",
    "mlflow",
)


@pytest.mark.parametrize(
    "modules",
    [
        ["config", "files", "seeding"],
        ["data.corpus", "data.readers", "data.beir", "data.index"],
        ["cli", "compose"],
        ["model.encoder"],
        ["runs.directory", "runs.identity", "runs.records", "runs.trackers"],
    ],
    ids=lambda modules: modules[0],
)
def test_nothing_heavy_is_imported_before_it_is_needed(modules, tmp_path):
    names = ", ".join(f"biencoder_ablate.{module}" for module in modules)
    program = f"import {names}, json, sys; print(json.dumps(sorted(sys.modules)))"
    ended = run_python(["-c", program], tmp_path)
    assert ended.returncode == 0, ended.stderr
    loaded = set(json.loads(ended.stdout))
    assert loaded & set(HEAVY) == set()
    assert f"biencoder_ablate.{modules[0]}" in loaded


def test_the_pair_records_need_only_the_standard_library(tmp_path):
    program = (
        "import sys; import biencoder_ablate.data.corpus\n"
        "names = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(name for name in names if not name.startswith('__')))"
    )
    before = run_python(["-c", program.replace("import biencoder_ablate.data.corpus", "")], tmp_path)
    after = run_python(["-c", program], tmp_path)
    added = set(ast.literal_eval(after.stdout)) - set(ast.literal_eval(before.stdout))
    assert added == {"biencoder_ablate"}


def test_every_module_begins_with_its_one_job():
    for path in MODULES:
        tree = ast.parse(path.read_text("utf-8"))
        assert not tree.body or ast.get_docstring(tree), f"{path}: does not say what it is for"


def test_every_draw_comes_from_a_named_stream():
    """No random number but those of seeding.generator and torch's, and torch's global state only in a fork."""
    for path in MODULES:
        text = path.read_text("utf-8")
        if name_of(path) != "seeding":
            assert "default_rng" not in text and "np.random.seed" not in text, path
        assert "import random\n" not in text, path
        if "torch.manual_seed" in text:
            assert "fork_rng" in text or name_of(path).startswith("training."), path

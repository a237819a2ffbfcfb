"""The house itself: imports run one way, nothing heavy comes before it is needed, names are kept apart."""

import ast
import json
from pathlib import Path

import pytest
from support.helpers import PACKAGE, run_python

# What each part may import lies in a row above it: utils ← config ← data, runs ← encoder ← … ← doors.
LAYERS = [
    {"version"},
    {"utils"},
    {"config"},
    {"data", "runs"},
    {"encoder"},
    {"model"},
    {"evaluation"},
    {"training"},
    {"report"},
    {"door", "cli"},
]
DOORS = {
    "__init__",
    "__main__",
    "version",
    "api",
    "audit",
    "benchmark",
    "cross_encoder",
    "decide",
    "evaluate",
    "export",
    "frames",
    "retrieve",
}
"""What may lie at the root: what is typed after `python -m biencoder_ablate.`, or imported as the public API."""
MODULES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """The part of the house that a module (dotted, below the package) belongs to; the doors are one part."""
    first = module.partition(".")[0]
    is_door = not module or first in DOORS - {"version"} or module.endswith(".__main__")
    return "door" if is_door else first


def layer_of(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if part_of(module) in layer)


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


IMPORTS = {name_of(path): imports_of(path) - {name_of(path)} for path in MODULES}


def test_imports_run_one_way():
    """Down the layers, or within one part; never up, and never from one part to its neighbour.

    What starts a command may import what it starts.
    """
    wrong = [
        f"{module} imports {imported}"
        for module, imports in IMPORTS.items()
        for imported in sorted(imports)
        if part_of(imported) != part_of(module) and layer_of(imported) >= layer_of(module)
        if not module.endswith("__main__")
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions count as well."""
    left = {module: set(imports) for module, imports in IMPORTS.items()}
    while leaves := {module for module, imports in left.items() if not imports & set(left)}:
        left = {module: imports for module, imports in left.items() if module not in leaves}
    assert left == {}, "what is left is in a circle, or imports one that is"


def test_the_root_holds_doors_alone():
    at_the_root = {path.stem for path in PACKAGE.glob("*.py")}
    assert at_the_root == DOORS


def test_every_layer_is_there_and_imports_are_seen():
    """Guards the tests above against finding nothing."""
    parts = {part_of(module) for module in IMPORTS}
    assert parts == set.union(*LAYERS)
    assert "data.corpus" in IMPORTS["data.readers"]
    assert "training.experiment" in IMPORTS["cli.main"], "an import inside a function"
    descending = (
        "report.read",
        "training.loop",
        "model.heads",
        "encoder.texts",
        "data.readers",
        "config",
        "utils.files",
    )
    layers = [layer_of(module) for module in descending]
    assert layers == sorted(set(layers), reverse=True)


def test_model_evaluation_loss_and_negatives_never_see_the_config():
    """They take plain arguments. What finds and restores a model's files may know its groups."""
    groups_known = {"model/saved.py"}
    plain = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] in ("model", "evaluation")]
    plain += [PACKAGE / "training" / f"{name}.py" for name in ("losses", "negatives")]
    for path in plain:
        allowed = {"ConfigError"}
        if path.relative_to(PACKAGE).as_posix() in groups_known:
            allowed |= {"ModelConfig", "DataConfig"}
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "biencoder_ablate.config.schema":
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
        ["config", "utils.files", "utils.seeding"],
        ["data.corpus", "data.readers", "data.beir", "data.text_table"],
        ["cli.main", "config.compose"],
        ["encoder.pretrained", "encoder.device"],
        ["evaluation.baselines"],
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
        if name_of(path) != "utils.seeding":
            assert "default_rng" not in text and "np.random.seed" not in text, path
        assert "import random\n" not in text, path
        if "torch.manual_seed" in text:
            assert "fork_rng" in text or name_of(path).startswith("training."), path

"""What README.md, CONTRIBUTING.md and docs/ show: every command is found and understood by the program itself, the
README's are run at a small size, its example runs, and every link leads somewhere.

A command is a line of a code block that begins with a program's name, or such a piece of code in a sentence or table.
Training commands are composed and checked as when they are typed; others meet their own parser, up to where work would
begin. What is neither run nor parsed is listed with the reason.
"""

import argparse
import html
import importlib
import io
import json
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from support.helpers import (
    PACKAGE,
    REPOSITORY,
    make_pairs,
    run_here,
    write_arguana_tree,
    write_pairs_csv,
    zip_directory,
)

from biencoder_ablate.cli.main import COMMANDS
from biencoder_ablate.config.compose import compose_command, load_config, parse_arguments, to_config
from biencoder_ablate.config.registry import BUILT_IN
from biencoder_ablate.config.schema import MEASURING_KEYS
from biencoder_ablate.version import __version__

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
README = DOCUMENTS[0].read_text("utf-8")
CORPUS = "arguana-counterargs-corpus.zip"
PROGRAM = re.compile(
    r"(\.venv/bin/)?(python3?|biencoder-ablate|torchrun|pip|cat|ruff|mkdocs|mypy|tensorboard|mlflow|source|\.ci/run)"
    r"(?=\s|$)"
)
OURS = re.compile(rf"python3? (-m biencoder_ablate|scripts/|benchmarks/)|biencoder-ablate ({'|'.join(COMMANDS)})\b")
"""What no document may hold outside of a command."""

NOT_HERE = {
    r"\.ci/run|\S*python -m pytest .*": "runs this very test",
    r"(ruff|mypy|mkdocs)( .*)?": ".ci/run ends with it",
    r"(python3 -m venv|source|\.|pip install) .*": "makes the environment; .ci/run does what README.md says",
    r"python3 -m pip install .*": "makes the environment of a machine that is lent",
    r"cat points\.txt": "the other side of a pipe, which is parsed",
    r"(tensorboard|mlflow) .*": "another project's program",
    r"python benchmarks/kept_index\.py": "takes no options, and encodes for a minute",
    r"python benchmarks/run\.py .*": "imports sentence-transformers and more; test_benchmarks.py runs its parts",
    r"python benchmarks/traced_step\.py .*": "must be there before torch is, so a process of its own",
    r".*[ .]WORD": "stands for any of the words, which are parsed",
    r"python3? scripts/gpu_check\.py.*": "imports sentence-transformers; test_benchmarks.py runs it",
    r"python scripts/beir_equality\.py .*": "imports sentence-transformers; test_beir.py runs it",
    r"python scripts/configuration_page\.py": "writes docs/configuration.md; .ci/run holds it against the schema",
    r".*biencoder.ablate.* (data|data\.name)=debate_wall .*": "test_extending_corpus.py runs it",
    r"python -m biencoder_ablate.* --config-dir conf head=.*": "test_extending_head_and_loss.py runs it",
    r"python -m biencoder_ablate.* --config-dir conf .*gated.*": "test_extending_head_and_loss.py runs it",
    r"python -m biencoder_ablate --config-dir my_conf .*": "test_trackers.py runs it",
}
"""Pattern of a whole command → why it is neither parsed nor run here."""

NEEDS = {
    "hydra/launcher=slurm": "hydra_plugins.hydra_submitit_launcher",
    "hydra/launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "hydra/sweeper=optuna": "hydra_plugins.hydra_optuna_sweeper",
    "experiment=search": "hydra_plugins.hydra_optuna_sweeper",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "data=hub": "datasets",
}
"""What in a command asks for an extra, and a module that comes with it."""


@dataclass(frozen=True)
class Shown:
    """A command as a document shows it."""

    document: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its arguments up to what the shell redirects, without `…` for more of the same."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="<>")
        lexer.whitespace_split = True
        words = list(lexer)
        return [word for word in words[: words.index("<") if "<" in words else None] if word != "…"]

    @property
    def training(self) -> list[str] | None:
        """The arguments of a command that trains; None for others."""
        words = self.words
        if words[0] == "biencoder-ablate":
            return None if words[1] in COMMANDS else words[1:]
        if "biencoder_ablate" not in words or words[words.index("biencoder_ablate") - 1] != "-m":
            return None
        rest = words[words.index("biencoder_ablate") + 1 :]
        return None if rest[:1] and rest[0] in COMMANDS else rest

    @property
    def reason(self) -> str | None:
        """Why it is neither parsed nor run here."""
        return next((why for pattern, why in NOT_HERE.items() if re.fullmatch(pattern, self.text)), None)


def shown_in(path: Path) -> list[Shown]:
    """Every command of a document, in order. Parts that && or | join are commands of their own."""
    lines, inside = [], None
    for line in re.split(r"\n", path.read_text("utf-8")):
        if line.startswith("```"):
            inside = line[3:] if inside is None else None
        elif inside is None:
            lines.append(line)
        elif inside in ("", "bash") and PROGRAM.match(command := re.sub(r"^(next:?)? +", "", line)):
            lines.append(f"\0{command}\0")  # a whole line is code
    codes = re.findall(r"\0(.*?)\0|`([^`]+)`", "\n".join(lines), flags=re.DOTALL)
    found = []
    for code in (" ".join((block or inline).split()).removeprefix("/usr/bin/time ") for block, inline in codes):
        named = re.fullmatch(r"python -m biencoder_ablate[.\w]*|biencoder-ablate \w+|(?!\.ci/run)\S+", code)
        if PROGRAM.match(code) and not named:
            parts = re.split(r" && | \| ", re.sub(r" # .*", "", code))
            found += [Shown(path.name, part.removesuffix(" …")) for part in parts]
    return list(dict.fromkeys(found))


ALL = [shown for path in DOCUMENTS for shown in shown_in(path)]
HERE = {shown.text: shown for shown in reversed(ALL) if shown.reason is None}
ELSEWHERE = ("experiment=search", "--help")
"""What of README.md other tests run: test_search.py, test_command_line.py."""
TRAINING = {
    text: shown
    for text, shown in HERE.items()
    if shown.training is not None and (shown.document != "README.md" or "experiment=search" in text)
}
OTHERS = {text: shown for text, shown in HERE.items() if shown.training is None}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A directory with the files that the documents name."""
    cwd = tmp_path_factory.mktemp("desk")
    zip_directory(write_arguana_tree(cwd / "tree", make_pairs()), cwd / CORPUS)
    beir = cwd / "beir"
    (beir / "qrels").mkdir(parents=True)
    for name in ("corpus", "queries"):
        rows = [{"_id": f"{name[0]}{i}", "title": "", "text": f"What {name} say of {i}."} for i in range(12)]
        (beir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for start, split in enumerate(("train", "dev", "test")):
        judged = [f"q{i}\tc{i}\t1" for i in range(4 * start, 4 * start + 4)]
        (beir / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    for name in ("scifact.zip", "arguana.zip"):
        zip_directory(beir, cwd / name)
    for name in ("my_pairs.csv", "my_texts.csv", "other.csv"):
        write_pairs_csv(cwd / name, make_pairs())
    for name, columns in (("faq.csv", "nr,product,question,answer"), ("my_posts.csv", "nr,thread,title,body")):
        rows = [f"{i},{i % 6},What of {i}?,This of {i}." for i in range(24)]
        (cwd / name).write_text("\n".join([columns, *rows]) + "\n")
    if find_spec("datasets"):
        import pandas

        pandas.read_csv(cwd / "my_pairs.csv").to_parquet(cwd / "my_pairs.parquet")
    return cwd


def filled(words: list[str], desk: Path) -> list[str]:
    """Arguments with something real where the document leaves it to the reader."""
    real = {"data=…": "data=pairs", "data.path=…": f"data.path={CORPUS}"}
    if "data=…" in words:
        real["data.path=…"] = "data.path=my_pairs.csv"
    return [real.get(word, word.replace("/path/to/encoder", str(desk)).replace("…", "x")) for word in words]


def need_extras(shown: Shown) -> None:
    for word, module in NEEDS.items():
        if word in shown.text:
            pytest.importorskip(module, reason=f"{word} needs an extra")


def test_no_command_is_overlooked():
    """As many are found as the text of a document has, and of those left out each for a reason that holds for one."""
    for path in DOCUMENTS:
        text = re.sub(r"```(?:python|yaml|toml)\n.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
        text = re.sub(r"`(python -m biencoder_ablate(\.\w+)?|biencoder-ablate \w+)`", "", text)  # named, not shown
        commands = "\n".join(shown.text for shown in shown_in(path))
        for line in (line for line in text.splitlines() if OURS.search(line)):
            for piece in re.split(r"`|\s+# |\s&&\s|\s\|\s|^next:? +|/usr/bin/time ", line):
                if OURS.search(piece):
                    assert " ".join(piece.split()).removesuffix(" …") in commands, (path.name, piece)
    assert len(ALL) > 80
    for pattern in NOT_HERE:
        assert any(re.fullmatch(pattern, shown.text) for shown in ALL), f"nothing is left out by {pattern}"


@pytest.mark.parametrize("shown", TRAINING.values(), ids=TRAINING)
def test_training_commands_compose(shown, desk, monkeypatch):
    need_extras(shown)
    monkeypatch.chdir(desk)
    arguments = parse_arguments(filled(shown.training, desk))
    with compose_command(arguments) as command:
        if command.multirun and "Optuna" not in command.sweeper:
            command.configs(command.jobs()[-1:])
        else:
            to_config(command.base)


class Parsed(Exception):
    """A command's own parser has taken its options."""


@pytest.mark.parametrize("shown", OTHERS.values(), ids=OTHERS)
def test_other_commands_are_taken_by_their_parser(shown, desk, monkeypatch):
    for parse in (argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_intermixed_args):

        def parse_and_stop(self, argv=None, parse=parse):
            raise Parsed(parse(self, argv))

        monkeypatch.setattr(argparse.ArgumentParser, parse.__name__, parse_and_stop)
    program, *words = filled(shown.words, desk)
    with pytest.raises(Parsed) as stopped:
        if program == "python" and words[0] != "-m":
            monkeypatch.setattr(sys, "argv", words)
            monkeypatch.setattr(sys, "path", [str(REPOSITORY / Path(words[0]).parent), *sys.path])
            runpy.run_path(str(REPOSITORY / words[0]), run_name="__main__")
        else:
            if program == "python":
                words = words[1].removeprefix("biencoder_ablate.").split() + words[2:]
            module = importlib.import_module(f"biencoder_ablate.{COMMANDS[words[0]]}")
            module.main(words[1:])
    monkeypatch.undo()
    monkeypatch.chdir(desk)
    (given,) = stopped.value.args
    overrides = [word for word in getattr(given, "overrides", getattr(given, "rest", [])) if "=" in word]
    if overrides:
        load_config(
            [*([f"data.path={CORPUS}"] if "data.path" not in shown.text and "data=" in shown.text else []), *overrides]
        )
        if hasattr(given, "run_dir"):
            keys = [word.partition("=")[0] for word in overrides]
            assert all(key in MEASURING_KEYS or f"{key.partition('.')[0]}.*" in MEASURING_KEYS for key in keys)


# --- README.md, for real ---

SMALL = ("model=tiny", "model.max_tokens=16", "data.limit=2", "training.freeze_encoder=true", "training.epochs=1")
FEWER = {
    "experiment=heads": ("head=none", "seed=0"),
    "sweep_name=finetuned": ("seed=0", "training.freeze_encoder=false"),
    "experiment=heads_finetuned": ("head=none", "seed=0"),
    "experiment=recipe_parts": ("without=batch", "seed=0"),
    "experiment=source_study": ("neg_ratio=0.01",),
}


def test_the_first_block_is_what_ci_runs():
    """Two lines, and nothing before them that .ci/run would take for them."""
    block = re.search(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    assert block is not None and block[1] == "bash"
    install, tests = block[2].splitlines()
    assert "pip install" in install and install.endswith(" -m biencoder_ablate head=layernorm_relu neg_ratio=0.01")
    assert tests.startswith(".venv/bin/python -m pytest ")


def test_the_readmes_commands_and_example_run_small(desk, capsys, monkeypatch):
    """One after another in one directory, as a reader would: training on a tiny model, then what uses its runs."""
    done, (example,) = [], re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Ban cars.\nZoos are cruel.\n"))
    for shown in shown_in(DOCUMENTS[0]):
        skipped = any(word in shown.text and find_spec(module.split(".")[0]) is None for word, module in NEEDS.items())
        if shown.reason or skipped or shown.words[0] == "torchrun" or any(word in shown.words for word in ELSEWHERE):
            continue
        if shown.training is None:
            words = [re.sub(r"logs/runs/\S+", "latest", word.replace("/NAME", "/first")) for word in shown.words[1:]]
            words = words if shown.words[0] == "biencoder-ablate" else [words[1].partition(".")[2], *words[2:]]
        else:
            fewer = [more for key, more in FEWER.items() if key in shown.words]
            words = [
                word for word in shown.training if not word.startswith(("model.name_or_path", "seed=", "model.pool"))
            ]
            words = [word.replace(",layernorm,relu,layernorm_relu", ",relu") for word in words]
            words += [*SMALL, *(fewer[0] if fewer else ())]
        ended = run_here(filled(words, desk), desk)
        expected = (0, 3) if words[0] == "decide" else (0,)  # so few seeds decide nothing
        assert ended.returncode in expected, (shown.text, ended.stderr)
        done.append(shown.text)
    assert len(done) > 20
    assert (desk / "report" / "index.html").is_file() and (desk / "my_model" / "modules.json").is_file()
    monkeypatch.chdir(desk)
    names: dict = {}
    exec(example, names)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and all(line.endswith(tuple(names["corpus"])) for line in said)
    assert names["embeddings"].shape[0] == 1


def test_the_last_lines_are_those_of_the_recording():
    """What README.md shows of the first command is the end of what the recorded terminal showed."""
    (shown,) = re.findall(r"^```\n(selected epoch.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    drawing = (REPOSITORY / "docs" / "images" / "first_run.svg").read_text("utf-8")
    last = re.findall(r'<g class="last".*?</g>', drawing, flags=re.DOTALL)
    assert len(drawing) < 150_000 and len(last) == 1
    screen = html.unescape("".join(re.findall(r"<text[^>]*>(.*?)</text>", last[0])))
    assert "".join(screen.split()).endswith("".join(shown.split()))


# --- links ---


def anchors(path: Path) -> set[str]:
    """What a page's headings are called in a link."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*DOCUMENTS, REPOSITORY / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.is_file(), f"{path.name}: no {file}"
        assert not anchor or anchor in anchors(found), f"{path.name}: no heading {anchor} in {file or 'it'}"
    for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|svg|png)", text):
        assert (REPOSITORY / name).is_file(), f"{path.name}: no {name}"


# --- files and modules ---

CODE_BLOCK = re.compile(r"^```.*?^```$", flags=re.DOTALL | re.MULTILINE)
ROOTS = (REPOSITORY, REPOSITORY / "src", PACKAGE)
"""Where a file that a document names may lie: `scripts/…`, `hydra_plugins/…`, `training/…`."""
THEIRS = ("my_conf/",)
"""How names of files begin that a reader is to make."""


def missing_files(text: str) -> list[str]:
    """Files that a text names outside of its code blocks, where an example may have files of its own, and that are
    not there."""
    named = re.findall(r"[\w./-]+/[\w.-]+\.(?:py|yaml|sh|cpp|j2)\b", CODE_BLOCK.sub("", text))
    ours = [name for name in named if not name.startswith(THEIRS)]
    return [name for name in ours if not any((root / name).is_file() for root in ROOTS)]


def missing_modules(text: str) -> list[str]:
    """Modules, and what they hold, that a text names or imports and that are not there."""
    named = re.findall(r"(?<![\w./-])biencoder_ablate(?:\.[A-Za-z_]\w*)+", text)
    for module, names in re.findall(r"^from (biencoder_ablate[.\w]*) import (.+)$", text, re.MULTILINE):
        named += [f"{module}.{name.strip()}" for name in names.split(",")]
    stand_ins = {f"biencoder_ablate.{word}" for word in (*BUILT_IN, "WORD")}
    return [name for name in dict.fromkeys(named) if name not in stand_ins and not resolves(name)]


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module holds."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            holder = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(holder, attribute):
                return False
            holder = getattr(holder, attribute)
        return True
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_modules_that_are_named_exist(path):
    text = path.read_text("utf-8")
    assert missing_files(text) == []
    assert missing_modules(text) == []


def test_a_name_that_is_gone_is_seen():
    """The test above can fail."""
    assert missing_files("see `training/assemble.py`, `training/loop.py`") == ["training/assemble.py"]
    assert missing_modules("`biencoder_ablate.api.Answers` and `biencoder_ablate.load`") == [
        "biencoder_ablate.api.Answers"
    ]
    assert missing_modules("from biencoder_ablate.data.corpus import Corpus, Corpse\n") == [
        "biencoder_ablate.data.corpus.Corpse"
    ]


def test_the_map_has_every_room():
    """CONTRIBUTING.md has a line for each package, and names each door."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)) == rooms
    doors = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    assert doors <= set(re.findall(r"`(\w+)`", text))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["authors"] == [{"name": "biencoder-ablate developers"}]

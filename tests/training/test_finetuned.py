"""model.finetuned: a finished run's encoder under other runs, seed by seed, told apart from the pretrained one."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support.helpers import load_sample, only_error, run_here, train, write_pairs_csv
from transformers import AutoModel, AutoTokenizer

QUICK = ("model=tiny", "data.limit=3", "training.epochs=1")
FROZEN = (*QUICK, "training.freeze_encoder=true", "head=none", "model.finetuned=tuned")


@dataclass(frozen=True)
class Sweeps:
    """Where they were made, the two runs that trained their encoder, and the runs over their encoders by head, seed."""

    cwd: Path
    tuned: dict[int, Path]
    over: dict[tuple[str, int], Path]


def runs_of(cwd: Path, sweep: str) -> dict[tuple[str, int], Path]:
    directory, found = cwd / "logs" / "sweeps" / sweep, {}
    for job in json.loads((directory / "runs.json").read_text("utf-8"))["jobs"]:
        asked = dict(override.split("=", 1) for override in job["overrides"])
        found[asked["head"], int(asked["seed"])] = (directory / job["directory"]).resolve()
    return found


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("tuned")
    rate = "training.learning_rate=1e-3"
    for arguments in (
        ("-m", *QUICK, rate, "head=none", "seed=0,1", "sweep_name=tuned"),
        ("-m", *FROZEN[:-2], "head=none,layernorm", "model.finetuned=tuned", "seed=0,1", "sweep_name=over"),
    ):
        ended = run_here(arguments, cwd)
        assert ended.returncode == 0, ended.stderr
    return Sweeps(cwd, {seed: run for (_, seed), run in runs_of(cwd, "tuned").items()}, runs_of(cwd, "over"))


def load(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def mrr_by_cosine(encoder: Path, debates: int = 3) -> float:
    """Official val MRR of a BERT's mean-pooled outputs, by transformers alone, text by text."""
    tokenizer, module = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()

    def embed(text: str) -> torch.Tensor:
        with torch.no_grad():
            found = module(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256))
        return torch.nn.functional.normalize(found.last_hidden_state[0].mean(0), dim=0)

    pairs = [pair for pair in load_sample().val if pair.debate in kept(debates)]
    texts = {text: embed(text) for pair in pairs for text in (pair.point, pair.counter)}
    reciprocal = 0.0
    for pair in pairs:
        others = {text: float(texts[pair.point] @ value) for text, value in texts.items() if text != pair.point}
        reciprocal += 1 / (1 + sorted(others, key=others.__getitem__, reverse=True).index(pair.counter))
    return reciprocal / len(pairs)


def kept(debates: int) -> list[str]:
    return list(dict.fromkeys(pair.debate for pair in load_sample().val))[:debates]


def test_a_run_starts_from_the_encoder_of_the_run_with_its_seed(sweeps):
    for (_, seed), run in sweeps.over.items():
        copy = run / "model" / "encoder" / "model.safetensors"
        assert copy.read_bytes() == (sweeps.tuned[seed] / "model" / "encoder" / "model.safetensors").read_bytes()
        initial = load(run / "result.json")["initial"]
        assert initial["val/mrr_stage1"] == pytest.approx(mrr_by_cosine(copy.parent))
    assert (sweeps.tuned[0] / "model" / "encoder" / "model.safetensors").read_bytes() != (
        sweeps.tuned[1] / "model" / "encoder" / "model.safetensors"
    ).read_bytes()


def test_the_pretrained_encoder_s_figures_stay_those_of_the_one_as_downloaded(sweeps):
    frozen = train(sweeps.cwd, *FROZEN[:-1], "seed=0")
    expected = load(frozen / "result.json")["baselines"]["pretrained"]
    for run in (*sweeps.tuned.values(), *sweeps.over.values()):
        assert load(run / "result.json")["baselines"]["pretrained"] == expected
    assert frozen.name != sweeps.over["none", 0].name


def test_runs_over_encoders_of_their_own_seeds_are_seeds_of_one_configuration(sweeps):
    for sweep, differs in (("over", 0), ("both", 1)):
        if sweep == "both":
            ended = run_here(
                ["-m", *FROZEN[:-1], "model.finetuned=tuned,null", "seed=0,1", "sweep_name=both"], sweeps.cwd
            )
            assert ended.returncode == 0, ended.stderr
        out = sweeps.cwd / f"report_{sweep}"
        ended = run_here(["report", f"logs/sweeps/{sweep}", "-o", str(out), "--points"], sweeps.cwd)
        assert ended.returncode == 0, ended.stderr
        with (out / "points.csv").open(encoding="utf-8", newline="") as file:
            systems = {(row["system"], row["seed"]) for row in csv.DictReader(file)}
        assert len(systems) == 4 and {seed for _, seed in systems} == {"0", "1"}
        assert len({system for system, _ in systems}) == 2
        assert sum("finetuned=" in system for system, _ in systems) == 4 * differs
        assert sum("finetuned=null" in system for system, _ in systems) == 2 * differs


def test_such_a_run_needs_the_first_one_no_more(sweeps, tmp_path):
    run = Path(shutil.copytree(sweeps.over["layernorm", 1], tmp_path / "logs" / "runs" / "alone"))
    before = load(run / "result.json")["test"]
    ended = run_here(["evaluate", str(run)], tmp_path)
    assert ended.returncode == 0, ended.stderr
    (kept,) = (run / "evaluations").glob("*.json")
    assert load(kept)["measured"]["test"] == before
    ended = run_here(["retrieve", str(run), "Zoos teach children to respect animals."], tmp_path)
    assert ended.returncode == 0 and "1. score" in ended.stdout, ended.stderr
    ended = run_here(["export", str(run), str(tmp_path / "exported")], tmp_path)
    assert ended.returncode == 0, ended.stderr
    card = (tmp_path / "exported" / "README.md").read_text("utf-8")
    assert "tiny, fine-tuned by an earlier run, then frozen; mean pooling" in " ".join(card.split())
    (weights,) = (tmp_path / "exported").glob("transformer/model.safetensors")
    assert weights.read_bytes() == (run / "model" / "encoder" / "model.safetensors").read_bytes()
    again = train(tmp_path, *FROZEN[:-1], f"model.finetuned={tmp_path / 'exported'}", "seed=1")  # an export will do
    copy = again / "model" / "encoder" / "model.safetensors"
    assert copy.read_bytes() == weights.read_bytes()


def test_a_run_whose_manifest_is_damaged_is_refused(sweeps, tmp_path):
    run = Path(shutil.copytree(sweeps.tuned[0], tmp_path / "damaged"))
    (run / "manifest.json").write_text("{", "utf-8")
    (tmp_path / "empty").mkdir()
    ended = run_here([*FROZEN[:-1], "seed=0", f"model.finetuned={run}"], tmp_path / "empty")
    assert f"{run / 'manifest.json'} cannot be read" in only_error(ended, tmp_path / "empty")


def test_an_encoder_of_another_seed_is_another_configuration(sweeps):
    run = train(sweeps.cwd, *FROZEN[:-1], f"model.finetuned={sweeps.tuned[1]}", "seed=0")
    told = load(run / "manifest.json")["determined_by"]["finetuned"]
    assert told["seed"] == 1
    assert told["run"] == load(sweeps.over["none", 1] / "manifest.json")["determined_by"]["finetuned"]["run"]
    assert "seed" not in load(sweeps.over["none", 1] / "manifest.json")["determined_by"]["finetuned"]
    weights = {load(run / "manifest.json")["determined_by"]["finetuned"]["weights"] for run in sweeps.over.values()}
    assert told["weights"] in weights and len(weights) == 2


def test_another_fine_tuning_is_another_configuration(sweeps):
    other = train(sweeps.cwd, *QUICK, "head=none", "seed=0", "training.learning_rate=2e-3")
    run = train(sweeps.cwd, *FROZEN[:-1], f"model.finetuned={other}", "seed=0")
    told, usual = (
        load(path / "manifest.json")["determined_by"]["finetuned"]["run"] for path in (run, sweeps.over["none", 0])
    )
    assert told != usual


def test_training_goes_on_from_such_an_encoder(sweeps):
    run = train(sweeps.cwd, *QUICK, "head=none", "model.finetuned=tuned", "seed=0", "training.learning_rate=1e-3")
    start = sweeps.tuned[0] / "model" / "encoder"
    trained = run / "model" / "encoder"
    assert load(run / "result.json")["initial"]["val/mrr_stage1"] == pytest.approx(mrr_by_cosine(start))
    weights = [
        AutoModel.from_pretrained(path).get_parameter("embeddings.word_embeddings.weight") for path in (start, trained)
    ]
    assert not np.array_equal(*(value.detach().numpy() for value in weights))


def test_another_corpus_is_warned_of(sweeps, tmp_path):
    pairs = write_pairs_csv(
        tmp_path / "pairs.csv", [pair for split in ("train", "val", "test") for pair in load_sample().split(split)]
    )
    ended = run_here([*FROZEN, "seed=0", "data=pairs", f"data.path={pairs}", "data.limit=null"], sweeps.cwd)
    assert ended.returncode == 0, ended.stderr
    assert "warning: which was trained on another corpus" in ended.stdout
    assert "warning: which was trained on another corpus" not in (sweeps.over["none", 0] / "train.log").read_text(
        "utf-8"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("seed=7",), "this sweep has no finished run with seed 7 (finished: 0, 1); must have it"),
        (("model.finetuned=LOGS/nothing",), "LOGS/nothing is no finished run and no sweep; must be one that trained"),
        (("model.finetuned=LOGS/over", "seed=0"), "this sweep has 2 finished runs with seed 0 ("),
        (("model.finetuned=FROZEN",), "the encoder of FROZEN was frozen; must be a run that trained it"),
        (("model.pooling=cls", "seed=0"), "model.pooling=cls: model.finetuned=LOGS/tuned was trained with mean"),
        (("model=minilm", "seed=0"), "was trained from tiny, and not from model.name_or_path=sentence-transformers/"),
    ],
)
def test_what_is_no_such_encoder_is_refused(sweeps, tmp_path, changes, message):
    places = [tmp_path / "other", tmp_path / "empty"]
    for place in places:
        place.mkdir()
    frozen = train(places[0], *FROZEN[:-1], "seed=0") if "FROZEN" in message else None
    logs = str(sweeps.cwd / "logs" / "sweeps")

    def filled(text: str) -> str:
        return text.replace("LOGS", logs).replace("FROZEN", str(frozen))

    arguments = [*FROZEN[:-1], filled("model.finetuned=LOGS/tuned"), *map(filled, changes)]
    if frozen is not None:
        arguments.remove(filled("model.finetuned=LOGS/tuned"))
    arguments = list({argument.split("=", 1)[0]: argument for argument in arguments}.values())
    assert filled(message) in only_error(run_here(arguments, places[1]), places[1])

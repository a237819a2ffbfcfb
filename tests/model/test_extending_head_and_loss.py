"""The head and the loss of docs/extending.md, from a package that is not ours: trained, killed, resumed, ranked,
reported, evaluated, retrieved with."""

import json
import time

import pytest
from support.helpers import install, only_error, run_module, run_program, shown_files, start

FROZEN = ["model=tiny", "model.max_tokens=32", "training.freeze_encoder=true", "training.batch_size=32", "data.limit=8"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("site"), shown_files("A head"))


@pytest.fixture(scope="module")
def foreign(site):
    """What a command needs to see the package."""
    return {"PYTHONPATH": str(site)}


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_foreign_head_and_loss_train_and_go_on_after_a_kill(site, foreign, tmp_path):
    arguments = ["--config-dir", str(site / "conf"), "head=gated", "loss=hinge", *FROZEN, "training.epochs=20"]
    process = start(["-m", "biencoder_ablate", *arguments], tmp_path, **foreign)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("logs/runs/*/checkpoint/last.pt")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (run,) = (path for path in (tmp_path / "logs" / "runs").iterdir() if not path.name.startswith("."))
    assert run.name.startswith("gated_neg") and not (run / "result.json").exists()
    ended = run_program(arguments, tmp_path, **foreign)
    assert ended.returncode == 0, ended.stderr
    assert "going on after epoch" in ended.stdout
    rows = records(run)
    assert [row["epoch"] for row in rows] == list(range(-1, 20))
    assert rows[-1]["loss"] == rows[-1]["loss/hinge"] < rows[1]["loss"]
    manifest = json.loads((run / "manifest.json").read_text())["determined_by"]
    assert manifest["head"]["name"] == "gated" and manifest["head"]["options"] == {"rank": 16}
    assert manifest["loss"]["name"] == "hinge" and manifest["loss"]["margin"] == 0.5


def test_a_foreign_head_is_swept_reported_evaluated_and_retrieved_with(site, foreign, tmp_path):
    small = [*FROZEN, "data.limit=3", "training.epochs=1", "sweep_name=mine"]
    sweep = ["-m", "--config-dir", str(site / "conf"), "head=none,gated", "seed=0,1"]
    ended = run_program([*sweep, *small], tmp_path, **foreign)
    assert ended.returncode == 0, ended.stderr
    ended = run_module("biencoder_ablate.report", ["logs/sweeps/mine", "-o", "report"], tmp_path, **foreign)
    assert ended.returncode == 0, ended.stderr
    table = (tmp_path / "report" / "table.csv").read_text()
    assert "gated" in table and "none" in table
    run = next(path for path in (tmp_path / "logs" / "runs").iterdir() if path.name.startswith("gated"))
    measured = run_module("biencoder_ablate.evaluate", [run, "--json"], tmp_path, **foreign)
    report = json.loads(measured.stdout)
    own = json.loads((run / "result.json").read_text())
    assert report["measured"]["test"]["top1"] == own["test"]["top1"]
    found = run_module("biencoder_ablate.retrieve", [run, "Zoos protect animals.", "--json"], tmp_path, **foreign)
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)["results"]) == 5


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["head.name=gated", "head.norm=none"], ["head.norm=none", "rank"]),
        (["head=gated", "+head.options.rnak=3"], ["head.rnak=3", "rank"]),
        (["head.name=gatde"], ["head.name=gatde", "gated", "linear"]),
        (["loss=hinge", "loss.temperature=1"], ["loss.temperature=1.0", "margin"]),
    ],
)
def test_what_a_foreign_head_or_loss_does_not_take_is_refused_in_one_line(overrides, said, site, foreign, tmp_path):
    ended = run_program(["--config-dir", str(site / "conf"), *overrides], tmp_path, **foreign)
    error = only_error(ended, tmp_path)
    assert all(part in error for part in said), error

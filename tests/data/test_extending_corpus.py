"""The corpus reader of docs/extending.md, from a package that is not ours: found, checked, trained on, audited."""

import json

import pytest
from support.helpers import install, only_error, run_module, run_program, shown_files

WALL = [
    {
        "topic": f"topic {number % 2}",
        "motion": f"motion {number}",
        "claims": [
            {"side": side, "text": f"Claim {side} of motion {number}.", "reply": f"No, {side} of {number} is wrong."}
            for side in ("pro", "con")
        ]
        + [{"side": "pro", "text": "Too short.", "reply": "Left out by min_words."}]
        + [{"side": "con", "text": "Nobody ever answered this.", "reply": ""}],
    }
    for number in range(6)
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    site = install(tmp_path_factory.mktemp("site"), shown_files("A corpus"))
    (site / "wall.json").write_text(json.dumps(WALL))
    return site


@pytest.fixture
def arguments(installed):
    return ["--config-dir", str(installed / "conf"), "data=debate_wall", f"data.path={installed / 'wall.json'}"]


def test_a_foreign_corpus_is_trained_on_and_audited(installed, arguments, tmp_path):
    frozen = ["model=minilm", "training.freeze_encoder=true", "training.epochs=1", "training.batch_size=4"]
    ended = run_program([*arguments, *frozen], tmp_path, PYTHONPATH=str(installed))
    assert ended.returncode == 0, ended.stderr
    (run,) = (path for path in (tmp_path / "logs" / "runs").iterdir() if not path.name.startswith("."))
    result = json.loads((run / "result.json").read_text())
    assert result["best_epoch"] >= -1 and result["test"]["num_points"] == 2
    asked = ["data.name=debate_wall", f"data.path={installed / 'wall.json'}", "--json"]
    asked += ["+data.options.min_words=2"]
    ended = run_module("biencoder_ablate.audit", asked, tmp_path, PYTHONPATH=str(installed))
    report = json.loads(ended.stdout)
    assert report["name"] == "debate_wall"
    assert [report["splits"][name]["num_pairs"] for name in ("train", "val", "test")] == [12, 3, 3]
    assert report["splits"]["train"]["num_incomplete"] == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["data.path=gone.json"], ["data.path=gone.json: no such file"]),
        (["data.options.minwords=5"], ["data.options.minwords=5", "minwords"]),
        (["data.options.min_words=99"], ["no complete pair in split"]),
    ],
)
def test_a_foreign_reader_refuses_in_one_line(change, said, installed, arguments, tmp_path):
    ended = run_program([*arguments, *change], tmp_path, PYTHONPATH=str(installed))
    assert all(part in only_error(ended, tmp_path) for part in said)

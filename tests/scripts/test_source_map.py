"""Every command line of docs/source-map.md composes, and runs on a tiny model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from biencoder_ablate.config.compose import load_config
from biencoder_ablate.training.experiment import run_experiment

MAP = Path(__file__).parents[2] / "docs" / "source-map.md"
ADDED = re.findall(r"\| `([^`]+)` \|$", MAP.read_text("utf-8"), flags=re.MULTILINE)
SMALL = [
    "model=tiny",
    "model.retrieval_dim=16",
    "model.max_tokens=16",
    "data=sample",
    "data.path=null",
    "data.limit=3",
    "training.epochs=1",
    "training.save_model=false",
]


def test_the_map_has_every_axis_of_the_source_study():
    assert len(ADDED) == 28


@pytest.mark.parametrize("added", ADDED)
def test_composes_as_written(added, tmp_path):
    corpus = tmp_path / "corpus.zip"
    corpus.touch()
    config = load_config(["experiment=source_study", f"data.path={corpus}", *added.split()])
    assert config.training.epochs == 200 and config.training.batch_size == 8
    assert config.training.learning_rate == config.training.head_learning_rate == 3e-6
    assert config.model.pooling == "pooler" and config.model.max_tokens == 512 and config.model.dropout == 0.0
    assert config.evaluation.source


@pytest.mark.slow
@pytest.mark.parametrize("added", ADDED)
def test_runs_on_a_tiny_model(added, tmp_path):
    config = load_config(
        ["experiment=source_study", *SMALL, *added.split(), f"logs_dir={tmp_path}/logs", f"cache_dir={tmp_path}/cache"]
    )
    outcome = run_experiment(config, "", added.split(), quiet=True)
    assert outcome.result["status"] == "finished"
    assert "source/test/top1" in outcome.result["selected"]

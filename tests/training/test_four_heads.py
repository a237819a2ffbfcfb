"""The question must not be void: under the default recipe the four heads are four different models at once."""

from __future__ import annotations

import json

from support.helpers import run_here


def test_four_heads_have_four_losses_after_one_epoch(tmp_path):
    ended = run_here(
        ["-m", "model=tiny", "model.max_tokens=32", "training.freeze_encoder=true", "training.epochs=1",
         "head=none,layernorm,relu,layernorm_relu"],
        tmp_path,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    losses = []
    for path in (tmp_path / "logs" / "runs").glob("[!.]*/metrics.jsonl"):
        last = json.loads(path.read_text().splitlines()[-1])
        losses.append((last["loss/head"], last["loss"]))
    assert len(losses) == len(set(losses)) == 4

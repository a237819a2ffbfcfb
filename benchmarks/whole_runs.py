"""Whole commands, as a user gives them: the four-head sweep, a run's second start, its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from setting import Setting

SECOND_START = """
import sys, time
from biencoder_ablate.config.compose import load_config
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.training.plan import build_components, make_plan
from biencoder_ablate.utils.distributed import World
from biencoder_ablate.training.loop import embed, make_optimizer
import torch._dynamo  # torch.optim imports it when the first optimizer is made
if "training.freeze_encoder=false" in sys.argv:
    import transformers.models.bert.modeling_bert, transformers.models.bert.tokenization_bert
started = time.perf_counter()
config = load_config(sys.argv[1:])
parts = build_components(make_plan(config), RunLog(None, quiet=True), World())
optimizer = make_optimizer(parts.context.model, config)
embed(parts.context, parts.pretrained())
print(time.perf_counter() - started)
"""


def overrides(setting: Setting) -> list[str]:
    """The setting as the program's overrides: the study recipe over frozen MiniLM."""
    data = ["data=arguana", f"data.path={os.path.abspath(setting.data)}"] if setting.data else ["data=sample"]
    return [
        *data,
        "recipe=study",
        "model=minilm",
        f"model.max_tokens={setting.max_tokens}",
        f"cache_dir={setting.cache_dir}",
        f"training.batch_size={setting.batch_size}",
        "training.freeze_encoder=true",
        "negatives=curriculum",
        "neg_ratio=0.02",
    ]


def _program(arguments: list[str], directory: Path, **environment: str) -> tuple[float, int]:
    """Run the program; (seconds, peak resident bytes of its largest process). Raises RuntimeError when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "biencoder_ablate", *arguments],
        cwd=directory,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(arguments)}:\n{output[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def sweep(setting: Setting, directory: Path) -> Iterator[tuple[str, str, str, str]]:
    """Features first (when they are not there), then 4 heads × 8 seeds × 15 epochs on two processes, then one run."""
    logs = directory / "sweep"
    logs.mkdir()
    given = overrides(setting)
    features = Path(setting.cache_dir or "") / "features"
    cached = features.exists() and any(features.glob("*.npy"))
    first, _ = _program([*given, "training.epochs=0", "seed=100"], logs)
    yield "first run with these texts and model", f"{first:.3g} s, features {'cached' if cached else 'encoded'}", "", ""
    again, _ = _program([*given, "training.epochs=0", "seed=101"], logs)
    yield "the same with another seed", f"{again:.3g} s", "", "no pass over texts"
    seconds, _ = _program(
        ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "head=none,layernorm,relu,layernorm_relu",
         "seed=range(0,8)", "training.epochs=15", *given],
        logs,
    )  # fmt: skip
    yield "frozen: 4 heads × 8 seeds × 15 epochs, two processes", f"{seconds:.0f} s", "", "≤ 180 s"
    one, peak = _program([*given, "training.epochs=15", "seed=102"], logs)
    yield "one such run, all threads", f"{one:.3g} s, peak {peak / 1e9:.2f} GB", "", "≤ 1.5 GB"


def second_start(setting: Setting, directory: Path) -> Iterator[tuple[str, str, str, str]]:
    """From after the imports to the first step, all texts embedded for it, tokens and features cached."""
    kinds = {"frozen": "training.freeze_encoder=true", "fine-tuned": "training.freeze_encoder=false"}
    for kind, override in kinds.items():
        taken = []
        for _ in range(3):
            ended = subprocess.run(
                [sys.executable, "-c", SECOND_START, *overrides(setting), override],
                cwd=directory, capture_output=True, text=True, check=True,
            )  # fmt: skip
            taken.append(float(ended.stdout.split()[-1]))
        yield f"second start, {kind}, to the first step", f"{min(taken[1:]):.3g} s", "", "≤ 3 s"

"""What test_cuda_without_cuda.py has a process of its own do: runs on the emulated device and the CPU. Prints JSON."""

import collections  # isort: split

import contextlib
import copy
import functools
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import cuda_without_cuda as emulated  # before torch
import numpy as np
import torch
from omegaconf import OmegaConf
from support.encoders import make_tokenizer
from support.helpers import REPOSITORY, load_sample
from transformers import BertConfig, BertModel

from biencoder_ablate.config.compose import load_config
from biencoder_ablate.config.schema import Config, HeadConfig, check
from biencoder_ablate.encoder.packed import _has_flash
from biencoder_ablate.encoder.texts import EncodedTexts, encode_rows, packed_encoder, plain_encoder
from biencoder_ablate.encoder.tokens import Tokens
from biencoder_ablate.evaluate import evaluate
from biencoder_ablate.retrieve import open_search
from biencoder_ablate.training import loop
from biencoder_ablate.training.experiment import OutOfMemory, run_experiment
from biencoder_ablate.training.plan import build_components, make_plan
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.deterministic import NotDeterministic
from biencoder_ablate.utils.distributed import World

SAME = {
    "study": {
        "recipe": "study",
        "evaluation__source": True,
        "model__pooling": "mean",
        "training__epochs": 2,
        "data__limit": 2,
    },
    "contrastive": {
        "model__pooling": "cls",
        "negatives__per_pair": 2,
        "negatives__depth": 8,
        "evaluation__rerank": "all",
    },
    "plain path": {"training__fast": False, "model__pooling": "pooler"},
    "in turns": {"training__micro_batch": "auto", "training__max_grad_norm": 1.0},
    "margin": {"training__freeze_encoder": True, "negatives__relative_margin": 0.05, "evaluation__score": "head"},
}
"""Run in float32 without dropout on both devices."""
HALF = {
    "study": {"recipe": "study", "model__pooling": "mean"},
    "contrastive": {"model__pooling": "cls", "negatives__per_pair": 2, "training__max_grad_norm": 1.0},
    "in turns": {"training__micro_batch": "auto"},
    "pooler": {"recipe": "study", "model__pooling": "pooler"},
    "frozen": {"training__freeze_encoder": True},
}
"""Run in bf16 with dropout on the emulated device."""
DEVICES = ("cuda", "cpu")


def save_small_bert(directory: Path, dropout: float = 0.1) -> BertModel:
    """A BERT of three layers, 32 wide, with a vocabulary from a few texts of the sample."""
    texts = [pair.point for pair in load_sample().split("train")[:40]]
    tokenizer = make_tokenizer(texts)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    torch.manual_seed(0)
    encoder = BertModel(config).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.add_(torch.randn(weight.shape), alpha=0.1)
    encoder.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return encoder


@functools.cache
def composed(recipe: str) -> Config:
    """A recipe's config, for small runs: composed once, since that takes longer than a step."""
    return load_config(["model=minilm", f"recipe={recipe}", f"loss={recipe}", "data.limit=1", "model.max_tokens=40"])


class Runs:
    """Runs in a directory, with a small BERT in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.encoder = save_small_bert(folder / "bert")
        self.mode = emulated.EmulatedCuda()

    def config(self, device: str, recipe: str = "contrastive", **changes: Any) -> Config:
        """Changes by key, group and key with two underscores between them."""
        config = copy.deepcopy(composed(recipe))
        config.training.epochs, config.training.batch_size, config.training.device = 1, 3, device
        config.model.name_or_path, config.neg_ratio = str(self.folder / "bert"), 0.5
        config.logs_dir, config.cache_dir = str(self.folder / "logs" / device), str(self.folder / "cache" / device)
        for key, value in changes.items():
            group, _, name = key.rpartition("__")
            setattr(getattr(config, group) if group else config, name, value)
        check(config)
        return config

    def on(self, device: str, rerun: bool = True, **changes: Any) -> Path:
        """The directory of a run."""
        config = self.config(device, rerun=rerun, **changes)
        with self.using(device):
            outcome = run_experiment(config, OmegaConf.to_yaml(OmegaConf.structured(config)), [], quiet=True)
        return outcome.directory.path

    def using(self, device: str) -> contextlib.AbstractContextManager:
        return self.mode if device == "cuda" else contextlib.nullcontext()


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def figures(run: Path) -> dict:
    """Losses and figures of every epoch, and the rankings, to compare."""
    rows = records(run)
    kept = [{k: v for k, v in row.items() if k.endswith(("top1", "top1_clean", "mrr", "recall@10"))} for row in rows]
    ranked = (run / "rankings.jsonl").read_text("utf-8")
    return {"loss": [row["loss"] for row in rows[1:]], "figures": [kept, ranked]}


def trained_for_an_epoch(runs: Runs, device: str, config: Config) -> tuple[loop.TrainingContext, float]:
    """Components of this config after an epoch, with its mean loss: training alone, nothing measured or written."""
    with runs.using(device):
        context = build_components(make_plan(config), RunLog(None, quiet=True), World()).context
        optimizer = loop.make_optimizer(context.model, config)
        result = loop.train_epoch(context, optimizer, 0, 0, loop.embed(context))
    return context, result.record["loss"]


def traffic(runs: Runs, **changes: Any) -> dict:
    """The most that any training step but the first made the host wait for, and launched; of an epoch on the device."""
    mode, steps, plain = runs.mode, [], loop.train_step

    def counted(*arguments):
        steps.append((mode.waits.copy(), mode.blocking.copy(), mode.calls))
        return plain(*arguments)

    loop.train_step = counted
    try:
        _, loss = trained_for_an_epoch(runs, "cuda", runs.config("cuda", data__limit=2, **changes))
    finally:
        loop.train_step = plain
    waits, blocking, calls = collections.Counter(), collections.Counter(), 0
    for before, after in itertools.pairwise(steps[1:]):
        waits |= after[0] - before[0]
        blocking |= after[1] - before[1]
        calls = max(calls, after[2] - before[2])
    return {"steps": len(steps), "waits": waits, "blocking": blocking, "calls": calls, "loss": loss}


def interrupted_and_whole(runs: Runs) -> list[dict]:
    """A run on the device that was stopped in its second epoch and went on, and one that was not."""
    changes, plain = {"seed": 1, "training__epochs": 2}, loop.train_step
    whole = figures(runs.on("cuda", **changes))

    def stop_in_second_epoch(context, optimizer, *others):
        if any(value["step"] > 2 for value in optimizer.state.values()):
            raise KeyboardInterrupt
        return plain(context, optimizer, *others)

    loop.train_step = stop_in_second_epoch
    try:
        with contextlib.suppress(KeyboardInterrupt):
            runs.on("cuda", **changes)
    finally:
        loop.train_step = plain
    resumed = runs.on("cuda", rerun=False, **changes)
    assert "going on after epoch 0" in (resumed / "train.log").read_text()
    return [whole, figures(resumed)]


def deterministic(runs: Runs) -> dict:
    """A step's launching calls without and with deterministic kernels; which of FlashAttention's backward passes were;
    and what is said of an op that has no such kernel."""
    mode = runs.mode
    steps = [traffic(runs, **HALF["study"], training__deterministic=wanted) for wanted in (False, True)]
    mode.flash_backward.clear()
    runs.on("cuda", **HALF["contrastive"], training__deterministic=True)
    plain = loop.train_step

    def with_cumsum(context, *others):
        torch.ones(3, device=context.device).cumsum(0)
        return plain(context, *others)

    said, loop.train_step = "", with_cumsum
    try:
        runs.on("cuda", training__deterministic=True)
    except NotDeterministic as error:
        said = str(error)
    finally:
        loop.train_step = plain
    return {"steps": steps, "flash": [mode.flash_backward[False], mode.flash_backward[True]], "refused": said}


def without_memory(runs: Runs) -> list[str]:
    """What a run says when the device has no room, without and with texts in turns."""

    def refused(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    said, plain = [], loop.train_step
    loop.train_step = refused
    for micro_batch in (None, "auto"):
        try:
            runs.on("cuda", training__micro_batch=micro_batch)
        except OutOfMemory as error:
            said.append(str(error))
    loop.train_step = plain
    return said


def one_epoch(runs: Runs, device: str, head: HeadConfig) -> dict:
    """Loss and figures after an epoch of a frozen run with this head, begun at random: no scores nearly equal."""
    config = runs.config(
        device, head=head, model__head_init="random", training__freeze_encoder=True, training__precision="fp32"
    )
    context, loss = trained_for_an_epoch(runs, device, config)
    with runs.using(device):
        measured = loop.measure_all(context, loop.embed(context))
    return {"loss": [loss], "figures": measured}


def texts_of(encoder: BertModel, pooling: str, device: str, precision: str, plain: bool = False) -> EncodedTexts:
    lengths = np.array([40, 3, 1, 22, 22, 9])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(0).integers(0, encoder.config.vocab_size, offsets[-1]).astype(np.int32)
    way = plain_encoder(encoder, pooling) if plain else packed_encoder(encoder, pooling)
    return EncodedTexts(encoder, way, Tokens(ids, offsets, lengths, 0), torch.device(device), precision, 10**6, 10**6)


def encoder_errors(runs: Runs, pooling: str) -> dict:
    """Of pooled outputs and gradients in bf16 on the device, from float32's plain path on the CPU, as shares."""
    encoder, rows = runs.encoder.eval(), np.array([3, 0, 5, 1, 2, 4])
    found = []
    for device in ("cpu", "cuda"):
        with runs.using(device):
            encoder.to(device)
            texts = texts_of(encoder, pooling, device, "fp32" if device == "cpu" else "bf16", plain=device == "cpu")
            h = texts.pooled(rows)
            (h * torch.linspace(-1, 1, h.numel()).view(h.shape).to(device)).sum().backward()
            gradients = {name: value.grad.cpu() for name, value in encoder.named_parameters() if value.grad is not None}
            found.append((h.detach().cpu(), gradients))
            encoder.zero_grad()
            encoder.to("cpu")
    (exact, wanted), (h, got) = found
    assert wanted.keys() == got.keys() and all(value.dtype == torch.float32 for value in got.values())
    scale = max(float(value.norm()) for value in wanted.values())
    return {
        "h": float((h - exact).abs().max() / exact.std()),
        "gradients": max(
            float((got[name] - value).norm()) / (float(value.norm()) + scale / 100) for name, value in wanted.items()
        ),
        "h keeps more than bf16": bool((h != h.bfloat16().float()).any()),
    }


def turns_error(runs: Runs) -> float:
    """Of gradients of texts in turns, on the device with dropout, from those of the same draws all at once."""
    encoder, rows, found = runs.encoder.train(), np.array([3, 0, 5, 1, 2, 4]), []
    with runs.mode:
        encoder.to("cuda")
        for in_turns in (False, True):
            texts = texts_of(encoder, "mean", "cuda", "bf16")
            texts.train_token_budget = 50
            torch.manual_seed(0)
            h, backward = texts.pooled_cached(rows) if in_turns else (texts.pooled(rows), lambda: None)
            torch.rand(7)  # as a head's dropout might
            (h * torch.linspace(-1, 1, h.numel()).view(h.shape).to("cuda")).sum().backward()
            backward()
            found.append(
                torch.cat([value.grad.cpu().flatten() for value in encoder.parameters() if value.grad is not None])
            )
            encoder.zero_grad()
        encoder.to("cpu")
    return float((found[1] - found[0]).norm() / found[0].norm())


def dropout_spread(runs: Runs) -> float:
    """Spread of outputs over draws of attention's dropout, on the device beside the plain path on the CPU."""
    encoder = copy.deepcopy(runs.encoder).train()
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Dropout) and not name.endswith("attention.self.dropout"):
            module.p = 0.0
    lengths, rows = np.full(200, 11), np.zeros(200, dtype=np.int64)
    tokens = Tokens(np.tile(np.arange(11, dtype=np.int32), 200), np.arange(201) * 11, lengths, 0)
    with torch.no_grad():
        plain = encode_rows(plain_encoder(encoder, "mean"), tokens, rows, 10**6, torch.device("cpu")).std(0)
        with runs.mode, torch.autocast("cuda", dtype=torch.bfloat16):
            device = encoder.to("cuda").device
            spread = encode_rows(packed_encoder(encoder, "mean"), tokens, rows, 10**6, device).cpu().std(0)
    return float((spread / plain).mean())


def main() -> None:
    torch.set_num_threads(1)
    emulated.emulate()
    with tempfile.TemporaryDirectory() as folder:
        runs, found = Runs(Path(folder)), {}
        for name, changes in SAME.items():
            exact = changes | {"training__precision": "fp32"} | ({} if name == "margin" else {"model__dropout": 0.0})
            done = {device: runs.on(device, **exact) for device in DEVICES}
            found[f"same: {name}"] = [figures(done[device]) for device in DEVICES]
            if name == "study":
                found["opened"] = [opened(runs, device, done[device]) for device in DEVICES]
        for path in sorted((REPOSITORY / "conf" / "head").glob("*.yaml")):
            head = HeadConfig(**OmegaConf.to_container(OmegaConf.load(path)))
            found[f"same: head={path.stem}"] = [one_epoch(runs, device, head) for device in DEVICES]
        found["steps"] = {name: traffic(runs, **changes) for name, changes in HALF.items()}
        found["resumed"] = interrupted_and_whole(runs)
        found["encoder"] = {pooling: encoder_errors(runs, pooling) for pooling in ("mean", "cls", "pooler")}
        found["deterministic"] = deterministic(runs)
        found["turns"] = turns_error(runs)
        found["dropout"] = dropout_spread(runs)
        found["memory"] = without_memory(runs)
        found["doubles"] = runs.mode.doubles
        emulated.emulate("Tesla T4", capability=(7, 5))
        _has_flash.cache_clear()
        precisions = [runs.config("cuda", training__precision=precision) for precision in ("auto", "bf16")]
        found["T4"] = [trained_for_an_epoch(runs, "cuda", config)[1] for config in precisions]
    json.dump(found, sys.stdout)


def opened(runs: Runs, device: str, run: Path) -> dict:
    """What evaluate and retrieve say of a run."""
    with runs.using(device):
        again = evaluate(run, ["evaluation.rerank=all"], baselines=True, quiet=True)
        near = open_search(run)(["Cars are dangerous."], 3)[0]["results"]
    return {"measured": again["measured"], "baselines": again["baselines"], "texts": [found["text"] for found in near],
            "margins": [found["margin"] for found in near]}  # fmt: skip


if __name__ == "__main__":
    main()

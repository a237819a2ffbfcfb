"""What training promises beyond running through: which epoch is selected and when it stops, which texts, in which
order and under which dropout it sees, and that a step is Adam on the mean loss.

Whole runs in this process on the sample. Expected values come from the files that a run leaves and from plain
references written here; where files do not say enough, the real `train_step` and `embed` are watched, not replaced.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.helpers import run_here
from support.reference import allowed_negatives, fold

from biencoder_ablate.data.corpus import Pair
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.training import experiment, loop

STUDY = ("recipe=study", "data=sample", "training.device=cpu", "negatives=constant")
FROZEN = (*STUDY, "model=minilm", "model.max_tokens=32", "training.freeze_encoder=true")
"""Texts are encoded once and kept in the session's cache: such a run trains linear1 and the head in half a second."""
TINY = (*STUDY, "model=tiny", "model.max_tokens=32", "data.limit=3")
NUM_PAIRS = 144  # of the sample's train split, all different, as are all of its texts
EPOCHS = 8

State = dict[str, torch.Tensor]


def run(cwd: Path, *overrides: str) -> Path:
    """The directory of a run with these overrides, in a new directory `cwd`."""
    cwd.mkdir()
    ended = run_here(overrides, cwd)
    assert ended.returncode == 0, ended.stderr
    (path,) = (child for child in (cwd / "logs" / "runs").iterdir() if not child.name.startswith("."))
    return path


def read_epochs(path: Path) -> list[dict]:
    """metrics.jsonl without the untrained model's line: the epochs from 0 on."""
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["epoch"] for row in rows] == list(range(-1, len(rows) - 1))
    return rows[1:]


def read_result(path: Path) -> dict:
    return json.loads((path / "result.json").read_text("utf-8"))


def first_best(values: list[float]) -> int:
    return values.index(max(values))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """A few runs, by head and seed: one's val and test figures may happen to agree on the best epoch, not all do."""
    folder = tmp_path_factory.mktemp("finished")
    asked = [("none", 5), ("none", 7), ("relu", 5), ("relu", 7)]
    return {
        (head, seed): run(
            folder / f"{head}{seed}",
            *(*FROZEN, f"head={head}", f"seed={seed}", f"training.epochs={EPOCHS}", "neg_ratio=0.5"),
        )
        for head, seed in asked
    }


# Selection, stopping and figures, from the files of finished runs


def test_the_epoch_is_selected_on_val_and_never_on_test(finished):
    telling = ties = 0
    for path in finished.values():
        val, test = ([epoch[f"{split}/top1"] for epoch in read_epochs(path)] for split in ("val", "test"))
        assert read_result(path)["best_epoch"] == first_best(val)
        telling += first_best(val) != first_best(test)
        ties += val.count(max(val)) > 1
    assert telling, "val and test agree on the best epoch of every run here: choose other heads or seeds"
    assert ties, "no run here is best in two epochs, of which the first counts: choose other heads or seeds"


def test_the_result_is_measured_with_the_selected_epoch_s_weights(finished):
    """Not with the last epoch's, which the model holds when training ends."""
    telling = 0
    for path in finished.values():
        epochs, result = read_epochs(path), read_result(path)
        selected, last = epochs[result["best_epoch"]], epochs[-1]
        for split in ("val", "test"):
            for figure in ("top1", "mrr", "recall@10"):
                assert result[split][figure] == selected[f"{split}/{figure}"], (path.name, split, figure)
        telling += all(selected[f"{split}/mrr"] != last[f"{split}/mrr"] for split in ("val", "test"))
    assert telling, "every run here is best in its last epoch: choose other heads or seeds"


def last_epoch_of(curve: list[float], patience: int) -> int:
    """The epoch after which a run stops: `patience` epochs in a row have not been better than the best before them."""
    best, since = -math.inf, 0
    for epoch, value in enumerate(curve):
        best, since = (value, 0) if value > best else (best, since + 1)
        if since == patience:
            return epoch
    return len(curve) - 1


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_is_the_number_of_epochs_without_a_better_one(finished, tmp_path, patience):
    """The impatient run is the patient one cut short; an epoch that only equals the best is no better."""
    curves = {asked: [epoch["val/top1"] for epoch in read_epochs(path)] for asked, path in finished.items()}
    stops = {asked: last_epoch_of(curve, patience) for asked, curve in curves.items()}
    early = {asked: stop for asked, stop in stops.items() if stop < EPOCHS - 1}
    assert early, "no run here is ever so long without a better epoch: choose other heads or seeds"
    (head, seed), stop = max(early.items(), key=lambda item: item[1])
    path = run(
        tmp_path / "impatient",
        *(*FROZEN, f"head={head}", f"seed={seed}", f"training.epochs={EPOCHS}", "neg_ratio=0.5"),
        f"training.patience={patience}",
    )
    assert [epoch["val/top1"] for epoch in read_epochs(path)] == curves[head, seed][: stop + 1]


def test_dead_pairs_are_of_all_three_splits(finished):
    """Each point has 10 pairs scored, so the share over all is the splits' shares weighted by their points."""
    splits = ("train", "val", "test")
    telling = 0
    for epoch in (epoch for path in finished.values() for epoch in read_epochs(path)):
        dead = sum(epoch[f"{split}/dead_pairs"] * epoch[f"{split}/num_points"] for split in splits)
        points = sum(epoch[f"{split}/num_points"] for split in splits)
        assert epoch["dead_pairs"] == pytest.approx(dead / points, rel=1e-12)
        telling += all(epoch[f"{split}/dead_pairs"] != epoch["dead_pairs"] for split in splits)
    assert telling, "in no epoch here do the splits' shares differ: choose other seeds of head=relu"


def test_every_epoch_has_dropout_masks_of_its_own(tmp_path):
    """One batch of all pairs, nearest negatives and rates of nothing: epochs differ in their dropout alone."""
    still = ("training.batch_size=1000", "neg_ratio=1", "training.learning_rate=1e-30", "training.epochs=3")
    losses = {}
    for dropout in ("0", "null"):
        path = run(
            tmp_path / dropout,
            *(*TINY, *still, "training.head_learning_rate=1e-30", f"model.dropout={dropout}"),
        )
        losses[dropout] = [epoch["loss"] for epoch in read_epochs(path)]
    assert losses["0"] == pytest.approx(losses["0"][:1] * 3, rel=1e-5)
    first, second, third = losses["null"]
    assert min(abs(first - second), abs(second - third), abs(first - third)) > 1e-4 * first, losses


# The first weights, from the models of runs that do not train


def test_the_head_starts_from_a_stream_of_its_own(tmp_path):
    """What linear1 drew must not move linear2, or a sweep over retrieval_dim or heads compares other beginnings."""
    first = {
        (head, dim): load_file(
            run(
                tmp_path / f"{head}{dim}",
                *(*FROZEN, "training.epochs=0", "fusion=pooled", f"head={head}", f"model.retrieval_dim={dim}"),
            )
            / "model"
            / "biencoder.safetensors"
        )
        for head, dim in [("none", 8), ("none", 16), ("layernorm_relu", 8)]
    }
    base = first["none", 8]
    for weights in first.values():
        for name in ("head.linear2.weight", "head.linear2.bias"):
            assert torch.equal(weights[name], base[name]), name
    assert torch.equal(first["layernorm_relu", 8]["linear1.weight"], base["linear1.weight"])
    # Both layers draw uniformly from ±1/√inputs: out of one stream they would be each other's multiples.
    matrices = (base["linear1.weight"], base["head.linear2.weight"])
    one, two = ((matrix * matrix.shape[1] ** 0.5).flatten() for matrix in matrices)
    assert not torch.allclose(one[:100], two[:100], atol=1e-3)


# Texts, order and steps, watched while the run goes on


@dataclass(frozen=True)
class Step:
    """One optimizer step: its triplets as text indices (B,), and the weights before, their gradients, and after."""

    point: np.ndarray
    counter: np.ndarray
    negative: np.ndarray
    before: State
    gradient: State
    after: State


class Watched:
    """The steps of a run, the embeddings before each epoch, and the training pairs and texts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        self.embeddings: list[Embeddings] = []
        self.pairs: tuple[Pair, ...] = ()
        self.texts: tuple[str, ...] = ()
        self._train_step, self._embed = loop.train_step, experiment.embed
        monkeypatch.setattr(loop, "train_step", self._step)
        monkeypatch.setattr(experiment, "embed", self._embedded)

    def _step(self, *args, **options):
        given = inspect.signature(self._train_step).bind(*args, **options).arguments
        context = given["context"]
        self.pairs, self.texts = context.splits["train"].split.pairs, context.index.texts
        named = dict(context.model.named_parameters())
        before = {name: value.detach().clone() for name, value in named.items()}
        outcome = self._train_step(*args, **options)
        gradient = {name: value.grad.clone() for name, value in named.items() if value.grad is not None}
        after = {name: value.detach().clone() for name, value in named.items()}
        rows = [getattr(given["pairs"], name).reshape(-1).copy() for name in ("point", "counter", "negative")]
        self.steps.append(Step(*rows, before, gradient, after))
        return outcome

    def _embedded(self, *args, **options):
        self.embeddings.append(self._embed(*args, **options))
        return self.embeddings[-1]

    def epochs(self, num_steps: int) -> list[list[Step]]:
        assert len(self.steps) % num_steps == 0
        return [self.steps[start : start + num_steps] for start in range(0, len(self.steps), num_steps)]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_every_epoch_visits_all_pairs_in_an_order_of_its_own(watched, tmp_path):
    run(tmp_path / "run", *FROZEN, "training.epochs=3", "training.batch_size=22")
    orders = [np.concatenate([step.point for step in epoch]).tolist() for epoch in watched.epochs(7)]
    places = {pair.point: row for row, pair in enumerate(watched.pairs)}
    orders = [[places[watched.texts[text]] for text in order] for order in orders]
    assert len(orders) == 3
    for order in orders:
        assert sorted(order) == list(range(NUM_PAIRS))
        assert order != list(range(NUM_PAIRS)), "the corpus's order: a batch would be one debate"
    # Two random orders agree in about one of the places; ten is already less likely than one in a million.
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert sum(a == b for a, b in zip(orders[i], orders[j], strict=True)) < 10, (i, j)


def test_a_hard_negative_is_the_nearest_text_to_the_point(watched, tmp_path):
    """neg_ratio=1: all are hard, and in every epoch near by the embeddings with which that epoch began."""
    run(tmp_path / "run", *FROZEN, "training.epochs=2", "training.batch_size=22", "neg_ratio=1")
    row_of = {(pair.point, pair.counter): row for row, pair in enumerate(watched.pairs)}
    folded = [fold(text) for text in watched.texts]
    epochs = watched.epochs(7)
    assert len(epochs) == 2
    for epoch, embeddings in zip(epochs, watched.embeddings, strict=False):
        r = embeddings.candidate.double().numpy()
        near_counter = num_pairs = 0
        for step in epoch:
            for point, counter, negative in zip(step.point, step.counter, step.negative, strict=True):
                allowed = allowed_negatives(watched.pairs, row_of[watched.texts[point], watched.texts[counter]])
                texts = [text for text in range(len(folded)) if folded[text] in allowed]
                to_point, to_counter = (np.linalg.norm(r - r[row], axis=1) for row in (point, counter))
                assert negative in texts
                assert to_point[negative] == pytest.approx(to_point[texts].min(), rel=1e-5)
                near_counter += negative == texts[to_counter[texts].argmin()]
                num_pairs += 1
        assert num_pairs == NUM_PAIRS and near_counter < NUM_PAIRS / 2, "nearest to the counter is another question"


def mean_loss(h: torch.Tensor, weights: State, step: Step) -> torch.Tensor:
    """The study loss of a batch with head=none, from its definition: margin 1, all weights 1, mean over the pairs."""
    total = torch.zeros((), dtype=torch.float64)
    for point, counter, negative in zip(step.point, step.counter, step.negative, strict=True):
        h_p, h_c, h_n = h[point], h[counter], h[negative]
        r_p, r_c, r_n = (weights["linear1.weight"] @ x + weights["linear1.bias"] for x in (h_p, h_c, h_n))
        total = total + ((r_p - r_c).norm() - (r_p - r_n).norm() + 1).clamp(min=0)
        for h_b, r_b, label in ((h_c, r_c, 1), (h_n, r_n, 0)):
            features = torch.cat([r_p, r_b, (r_p - r_b).abs(), h_p, h_b, (h_p - h_b).abs()])
            logits = weights["head.linear2.weight"] @ features + weights["head.linear2.bias"]
            total = total + logits.logsumexp(0) - logits[label]
    return total / len(step.point)


def test_gradients_are_those_of_the_mean_loss_of_each_batch(watched, tmp_path):
    """144 pairs in batches of 40, 40, 40 and 24. Adam hides a wrong scale; max_grad_norm would not."""
    run(tmp_path / "run", *FROZEN, "head=none", "training.epochs=1", "training.batch_size=40", "neg_ratio=0.5")
    assert [len(step.point) for step in watched.steps] == [40, 40, 40, 24]
    h = watched.embeddings[0].h.double()
    for step in watched.steps:
        weights = {name: value.double().requires_grad_() for name, value in step.before.items()}
        assert set(step.gradient) == set(weights)
        for name, expected in zip(
            weights, torch.autograd.grad(mean_loss(h, weights, step), list(weights.values())), strict=True
        ):
            torch.testing.assert_close(step.gradient[name].double(), expected, rtol=1e-3, atol=1e-5)


def test_every_step_is_adam_s_without_weight_decay_and_with_a_rate_for_each_part(watched, tmp_path):
    """Kingma & Ba 2015, algorithm 1, from the gradients of each step: β = 0.9, 0.999, ε = 1e-8."""
    run(
        tmp_path / "run",
        *(*TINY, "training.epochs=1", "training.learning_rate=1e-3", "training.head_learning_rate=1e-2"),
    )
    assert len(watched.steps) >= 2
    for name, start in watched.steps[0].before.items():
        rate = 1e-3 if name.startswith("encoder.") else 1e-2
        weight, m, v = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
        for t, step in enumerate(watched.steps, start=1):
            gradient = step.gradient[name].double()
            m = 0.9 * m + 0.1 * gradient
            v = 0.999 * v + 0.001 * gradient**2
            weight = weight - rate * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            # AdamW's usual decay of 0.01 would move a LayerNorm's weights of 1 by 1e-5 a step.
            torch.testing.assert_close(step.after[name].double(), weight, rtol=0, atol=2e-6, msg=f"{name}, step {t}")

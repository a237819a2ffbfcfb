"""What is put before a text that asks and before one that is ranked: it reaches training, figures, names and uses."""

import json

import numpy as np
import pytest
import torch
from support.helpers import train

import biencoder_ablate
from biencoder_ablate.api import open_run
from biencoder_ablate.config.compose import load_config
from biencoder_ablate.config.schema import Config, ModelConfig
from biencoder_ablate.encoder.texts import EncodeSettings, prompted_texts
from biencoder_ablate.evaluate import evaluate
from biencoder_ablate.runs.identity import identity
from biencoder_ablate.training.loop import Pairs, make_optimizer, train_step
from biencoder_ablate.training.plan import build_components, make_plan
from biencoder_ablate.utils.console import RunLog
from biencoder_ablate.utils.distributed import World

ASK, RANK = "question: ", "answer: "
PROMPTS = (f'model.point_prompt="{ASK}"', f'model.candidate_prompt="{RANK}"')
SMALL = ("model=tiny", "data.limit=2", "model.max_tokens=24", "training.epochs=1", "model.dropout=0")


def test_only_prompts_that_are_given_name_a_run():
    def named(**prompts):
        return identity(Config(model=ModelConfig(**prompts)), "data", "model", "fp32")

    assert not [key for key in named()["model"] if "prompt" in key], "runs from before there were any keep their names"
    given = [named(), named(point_prompt="a"), named(candidate_prompt="a"), named(point_prompt="b")]
    assert all(one != other for i, one in enumerate(given) for other in given[:i])


def test_a_text_that_asks_and_is_ranked_is_read_both_ways():
    texts, points = ["a", "b", "c"], np.array([2, 0, 2])
    reading = EncodeSettings("mean", 8, torch.device("cpu"), point_prompt=ASK, candidate_prompt=RANK)
    roles = prompted_texts(texts, points, reading)
    assert roles.strings == ("answer: a", "answer: b", "answer: c", "question: a", "question: c")
    h, h_asking = roles.of(torch.arange(5.0)[:, None])
    assert h[:, 0].tolist() == [0, 1, 2] and h_asking[:, 0].tolist() == [3, 1, 4], "what never asks has no second h"
    once = prompted_texts(
        texts, points, EncodeSettings("mean", 8, torch.device("cpu"), point_prompt="p ", candidate_prompt="p ")
    )
    assert once.strings == ("p a", "p b", "p c") and once.as_point is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """With prompts, trained whole and with the encoder frozen."""
    folder = tmp_path_factory.mktemp("prompts")
    return {
        "trained": train(folder, *SMALL, *PROMPTS),
        "frozen": train(folder, *SMALL[:-1], *PROMPTS, "training.freeze_encoder=true"),
    }


@pytest.mark.parametrize("recipe", ["study", "contrastive"])
def test_a_step_reads_points_as_points(recipe, tmp_path):
    """The loss of a step by hand: every text encoded by itself, with its prompt before it."""
    settings = [*SMALL, *PROMPTS, f"recipe={recipe}", f"logs_dir={tmp_path}"]
    parts = build_components(make_plan(load_config(settings)), RunLog(None, True), World())
    context, model = parts.context, parts.context.model
    rows, split = np.arange(4), context.splits["train"].split
    negative = split.counter[[8, 9, 10, 11]][:, None]
    pairs = Pairs(rows, split.point[rows], split.counter[rows], negative)

    def hidden(prompt, numbers):
        return parts.encoder([prompt + context.index.texts[number] for number in numbers])

    with torch.no_grad():
        asking = hidden(ASK, pairs.point)
        counters, negatives = hidden(RANK, pairs.counter), hidden(RANK, negative[:, 0])
        r, answer = model.as_points(asking), model.as_candidates(counters)
        against, others = model.as_candidates(negatives), model.as_candidates(hidden(RANK, pairs.point))
        margins = []
        for h_b, r_b in ((counters, answer), (negatives, against)):
            logits = model.logits(asking, r, h_b, r_b)
            margins.append(model.pair_score(logits, r, r_b) if recipe == "contrastive" else logits)
        if recipe == "study":
            own, other = (torch.nn.functional.cross_entropy(margins[i], torch.full((4,), 1 - i)) for i in (0, 1))
            triplet = torch.nn.functional.triplet_margin_loss(r, answer, against)
            expected = triplet + own + other
        else:
            temperature = context.config.loss.temperature
            rest = torch.cat([answer, against, others]) @ r.T  # (3 × 4, points)
            right = {tuple(pair) for pair in zip(split.point_key, split.counter_key, strict=True)}
            keys = np.concatenate([split.counter_key[rows], split.counter_key[8:12], split.point_key[rows]])
            columns = []
            for point in range(4):
                own_key = split.point_key[point]
                kept = [i for i, key in enumerate(keys) if key != own_key and (own_key, key) not in right]
                every = torch.cat([(r[point] @ answer[point])[None], rest[kept, point]]) / temperature
                columns.append(every.logsumexp(0) - every[0])
            among = torch.stack(margins).log_softmax(0)[0]
            config = context.config.loss
            expected = config.retrieval * torch.stack(columns).mean() - config.head * among.mean()
    model.train()
    sums, _ = train_step(context, make_optimizer(model, context.config), pairs)
    assert sums[0].item() / 4 == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["trained", "frozen"])
def test_figures_and_answers_follow_the_contract(kind, runs):
    path = runs[kind]
    contract = json.loads((path / "model" / "biencoder.json").read_text())
    assert (contract["point_prompt"], contract["candidate_prompt"]) == (ASK, RANK)
    report = evaluate(path, [], baselines=True, quiet=True)
    assert report["measured"]["test"]["top1_stage1"] == report["own"]["test"]["top1_stage1"]
    assert report["measured"]["val"]["mrr"] == report["own"]["val"]["mrr"]
    initial = json.loads((path / "result.json").read_text())["initial"]
    assert report["baselines"]["pretrained_cosine"]["val"]["top1"] == initial["pretrained/val/top1"]

    run, loaded = open_run(path, []), biencoder_ablate.load(path)
    model, encoder = run.biencoder(), run.encoder()
    corpus = ["Animals are cruel.", "Zoos are cruel.", "Nobody eats grass."]
    with torch.no_grad():
        h, h_b = encoder([ASK + "Zoos protect animals."]), encoder([RANK + text for text in corpus])
        r, r_b = model.as_points(h), model.as_candidates(h_b)
        scores = model.pair_score(model.logits(h.expand(3, -1), r.expand(3, -1), h_b, r_b), r.expand(3, -1), r_b)
    np.testing.assert_allclose(loaded.encode_points("Zoos protect animals."), r, atol=1e-5)
    np.testing.assert_allclose(loaded.encode_candidates(corpus), r_b, atol=1e-5)
    np.testing.assert_allclose(loaded.score("Zoos protect animals.", corpus), scores, atol=1e-4)
    found = loaded.retrieve("Zoos protect animals.", corpus, k=3)
    np.testing.assert_allclose(np.sort(found.distance[0]), np.sort((r - r_b).norm(dim=1)), atol=1e-3)


def test_prompts_change_what_is_learned_and_are_told_apart_in_the_cache(runs, tmp_path):
    plain = train(tmp_path, *SMALL[:-1], "training.freeze_encoder=true")
    first = [json.loads((path / "metrics.jsonl").read_text().splitlines()[0]) for path in (plain, runs["frozen"])]
    assert first[0]["val/mrr"] != first[1]["val/mrr"]

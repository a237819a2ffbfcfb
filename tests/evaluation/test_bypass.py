"""What a model loses without a part equals what a model built without it scores, from its own embeddings on."""

import functools

import numpy as np
import pytest
import torch
from support.helpers import make_pairs

from biencoder_ablate.data.corpus import build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation import bypass
from biencoder_ablate.evaluation.bypass import measure_bypasses
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.protocols import final_rankings, measure_split
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.heads import PairHead
from biencoder_ablate.model.parts import parts_of

H, R = 6, 4
WHOLE = {"norm": "layernorm", "activation": "relu", "activation_position": "before_linear2"}


class Logarithmic(PairHead):
    """Without its layer it takes the logarithm of numbers below 0."""

    def __init__(self, widths):
        super().__init__(widths)
        self.layer = torch.nn.Sigmoid()

    def forward(self, features):
        sums = self.layer(features).log().sum(-1)
        return torch.stack([sums, -sums], dim=-1)


@functools.cache
def data():
    """Test and val of a small corpus, and h of its texts."""
    made = build_corpus("made", make_pairs(num_debates=2, num_points=3))
    index = build_table(made)
    h = torch.randn(len(index.texts), H, generator=torch.Generator().manual_seed(4))
    return {name: build_task(index.splits[name]) for name in ("val", "test")}, h


def make_model(options, score="sum", shaken=True, **shape):
    model = BiEncoder(Architecture(H, R, head_options=options, score=score, towers="separate", **shape), seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for weight in model.parameters() if shaken else ():
            weight.add_(torch.randn(weight.shape, generator=generator))
    return model.eval()


def scored(model, rerank):
    """The metrics of a model of its own, and its rankings, split by split."""
    tasks, h = data()
    with torch.no_grad():
        embeddings = model.embed(h)
        score = pair_scorer(model, embeddings)
        metrics = {name: measure_split(task, embeddings, score, rerank) for name, task in tasks.items()}
        rankings = {name: final_rankings(task, embeddings, score, rerank).official for name, task in tasks.items()}
    return metrics, rankings


def built_without(model, name):
    """A model that is made without the part from the beginning, and given all other weights."""
    changes = {
        "head.norm": {"options": {**WHOLE, "norm": "none"}},
        "head.activation": {"options": {"norm": "layernorm"}},
        "similarity_weight": {"options": WHOLE, "score": "head"},
    }
    plain = make_model(**changes.get(name, {"options": WHOLE}))
    start = make_model(WHOLE, shaken=False).state_dict()
    left_out = {"linear1": "linear1.", "linear1_candidate": "linear1_candidate."}.get(name, "-")
    weights = {}
    for key in plain.state_dict():
        weights[key] = start[key] if key.startswith(left_out) else model.state_dict()[key]
    plain.load_state_dict(weights)
    return plain


def bypasses_of(model, rerank=3, fast=True):
    tasks, h = data()
    start = dict(make_model(WHOLE, shaken=False).named_parameters())
    with torch.no_grad():
        embeddings = model.embed(h)
        score = pair_scorer(model, embeddings, fast)
        rankings = {name: final_rankings(task, embeddings, score, rerank) for name, task in tasks.items()}
        return measure_bypasses(model, parts_of(model), start, embeddings, rankings, rerank, fast)


@pytest.mark.parametrize("fast", [True, False])
def test_a_bypassed_part_scores_as_a_model_built_without_it(fast):
    model = make_model(WHOLE)
    found = bypasses_of(model, fast=fast)
    assert set(found) == {"linear1", "linear1_candidate", "head", "head.norm", "head.activation", "similarity_weight"}
    metrics, rankings = scored(model, 3)
    num_changed = 0
    for name, by_split in found.items():
        other = scored(model, "none") if name == "head" else scored(built_without(model, name), 3)
        for split, figures in by_split.items():
            for key in ("top1", "top1_clean", "mrr", "ndcg@10_clean", "recall@10"):
                assert figures[key] == other[0][split][key]
                assert figures["lost"][key] == metrics[split][key] - other[0][split][key]
            before, after = rankings[split], other[1][split]
            differ = (before.first != after.first) | (before.final_rank != after.final_rank)
            assert figures["num_changed"] == np.count_nonzero(differ)
            assert figures["num_points"] == len(differ)
            num_changed += figures["num_changed"]
    assert num_changed > 0, "these weights make no difference: nothing was compared"


def test_a_relu_over_logits_that_are_all_positive_changes_no_ranking():
    model = make_model({"activation": "relu"}, score="head")
    with torch.no_grad():
        model.head.linear2.bias.add_(1000.0)
    found = bypasses_of(model)["head.activation"]
    assert [found[split]["num_changed"] for split in ("val", "test")] == [0, 0]
    assert set(found["test"]["lost"].values()) == {0.0}


def test_where_the_head_does_not_rank_only_projections_are_bypassed():
    assert set(bypasses_of(make_model(WHOLE), "none")) == {"linear1", "linear1_candidate"}


def test_with_all_candidates_scored_a_bypass_goes_to_the_depth_of_an_epoch(monkeypatch):
    monkeypatch.setattr(bypass, "epoch_depth", lambda rerank: {"all": 2}[rerank])
    model = make_model(WHOLE)
    expected = scored(built_without(model, "head.norm"), 2)[0]
    assert bypasses_of(model, "all")["head.norm"]["test"]["mrr"] == expected["test"]["mrr"]


def test_a_layer_without_which_no_score_is_finite_is_said_and_does_not_end_the_run():
    model = make_model({}, score="head")
    model.head = Logarithmic((R, H))
    found = bypasses_of(model)
    assert found["head.layer"] == {"why": "without it a score is not finite"}
    assert found["head"]["test"]["num_points"] > 0

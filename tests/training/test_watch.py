"""Parts that are dead are found and named: no gradient, frozen weights, a layer that never acts."""

import json
import math

import pytest
import torch
from torch import nn

from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.training.alive import warnings_of_parts
from biencoder_ablate.training.watch import LOOKED_AT, PartsWatch

H, R = 6, 4


def make_model(norm="layernorm", activation="relu", **shape):
    options = {"norm": norm, "activation": activation}
    return BiEncoder(Architecture(pooled_dim=H, retrieval_dim=R, head_options=options, **shape), seed=1)


def train(model, watch, num_steps=4, loss=lambda model, h: logits_of(model, h).square().sum()):
    """Plain gradient descent on some texts, each step counted."""
    model.train()
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(num_steps):
        optimizer.zero_grad(set_to_none=True)
        loss(model, torch.randn(8, H, generator=generator)).backward()
        optimizer.step()
        watch.after_step()
    return watch.epoch_record()


def logits_of(model, h):
    r = model.as_points(h)
    return model.logits(h, r, h.flip(0), r.flip(0))


def said_of(watch, record, changed=1):
    """The warnings that a result with these records leads to, where bypassing a part changes some rankings."""
    parts = {}
    for part in watch.parts:
        found = {key.rpartition("/")[2]: value for key, value in record.items() if f"parts/{part.name}/" in key}
        bypassed = {"val": {"lost": {}, "num_changed": changed, "num_points": 4}} if part.bypass else None
        parts[part.name] = {"words": part.words, "bypassed": bypassed, **found}
    return warnings_of_parts({"parts": parts})


def test_a_model_that_is_trained_whole_has_nothing_to_say():
    model = make_model()
    watch = PartsWatch(model)
    record = train(model, watch)
    for name in ("linear1", "head", "head.norm", "head.linear2"):
        assert record[f"parts/{name}/gradient_share"] == 1.0 and record[f"parts/{name}/change"] > 0
    assert record["parts/head.activation/acted_share"] == 1.0
    assert said_of(watch, record) == []


def test_a_head_that_is_detached_from_the_graph_never_gets_a_gradient():
    model = make_model()
    watch = PartsWatch(model)
    record = train(model, watch, loss=lambda model, h: model.as_points(h).sum() + logits_of(model, h).detach().sum())
    assert record["parts/head/gradient_share"] == 0 and record["parts/linear1/gradient_share"] == 1
    assert "the head never got a gradient" in said_of(watch, record)[0]


def test_a_layernorm_whose_weights_are_frozen_is_named():
    model = make_model()
    model.head.norm.requires_grad_(False)
    watch = PartsWatch(model)
    record = train(model, watch)
    assert record["parts/head.norm/gradient_share"] == 0 and record["parts/head/gradient_share"] == 1
    (said,) = said_of(watch, record)
    assert said.startswith("the LayerNorm (head.norm) never got a gradient")


def test_gradients_without_a_step_are_told_from_no_gradients():
    model = make_model()
    watch = PartsWatch(model)
    optimizer_sees = [value for name, value in model.named_parameters() if "norm" not in name]
    model.train()
    logits_of(model, torch.ones(2, H)).sum().backward()
    torch.optim.SGD(optimizer_sees, lr=0.1).step()
    watch.after_step()
    record = watch.epoch_record()
    assert record["parts/head.norm/gradient_share"] == 1 and record["parts/head.norm/change"] == 0
    assert "got gradients, and its weights have not moved" in said_of(watch, record)[0]


def test_an_activation_that_never_acts_is_named():
    """Both logits of every pair are 5 and more: the ReLU passes them on."""
    model = make_model(norm="none")
    with torch.no_grad():
        model.head.linear2.weight.zero_()
        model.head.linear2.bias.fill_(5.0)
    watch = PartsWatch(model)
    record = train(model, watch, num_steps=1)
    assert record["parts/head.activation/acted_share"] == 0
    said = said_of(watch, record, changed=0)
    assert "the ReLU (head.activation) never acted: bypassing it changes no ranking of val and test" in said


def test_the_share_of_steps_counts_steps_of_one_epoch():
    model = make_model(norm="none")
    watch = PartsWatch(model)
    steps = iter([True, False, False, False, False, True, True, True])

    def sometimes(model, h):
        logits = logits_of(model, h)
        return model.as_points(h).sum() + (logits if next(steps) else logits.detach()).sum()

    assert train(model, watch, 4, sometimes)["parts/head/gradient_share"] == 0.25
    assert train(model, watch, 4, sometimes)["parts/head/gradient_share"] == 0.75


def test_change_is_the_length_of_what_was_added_beside_the_start():
    model = BiEncoder(Architecture(pooled_dim=H, projection_init="identity", towers="separate"), seed=1)
    with torch.no_grad():
        model.head.linear2.weight.fill_(1.0)
        model.head.linear2.bias.fill_(0.0)
    watch = PartsWatch(model)
    with torch.no_grad():
        model.head.linear2.weight.mul_(1.5)
        model.linear1.weight.fill_(0.5)
    watch.after_step()
    record = watch.epoch_record()
    assert record["parts/head/change"] == pytest.approx(0.5)
    # 36 values of 0.5 have the length 3, the identity of width 6 has √6.
    assert record["parts/linear1/change"] == pytest.approx(3 / math.sqrt(6))
    assert record["parts/linear1_candidate/change"] == 0
    assert record["parts/linear1/gradient_share"] == 0


def test_of_large_tensors_a_sample_tells_the_same():
    model = make_model(norm="none")
    model.encoder = nn.Embedding(50, LOOKED_AT)  # any module with many weights
    watch = PartsWatch(model)
    with torch.no_grad():
        model.encoder.weight.mul_(1.25)
    model.encoder.weight.grad = torch.zeros_like(model.encoder.weight)
    model.encoder.weight.grad[:, 1::2] = 1.0
    watch.after_step()
    record = watch.epoch_record()
    assert record["parts/encoder/change"] == pytest.approx(0.25, rel=1e-5)
    assert record["parts/encoder/gradient_share"] == 1


def test_watching_changes_nothing_that_is_trained():
    weights = []
    for watched in (True, False):
        model = make_model()
        watch = PartsWatch(model) if watched else PartsWatch(make_model())
        torch.manual_seed(0)
        train(model, watch)
        weights.append(model.state_dict())
        assert torch.rand(1).item() == pytest.approx(0.4962566)
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_run_leaves_what_it_knows_of_its_parts_and_warns_of_those_that_are_dead(finished_run):
    result = json.loads((finished_run.path / "result.json").read_text("utf-8"))
    parts = result["parts"]
    layers = {"head", "head.norm", "head.linear2", "head.activation"}
    assert set(parts) == {"encoder", "linear1", "linear1_candidate", *layers, "similarity_weight"}
    before, epoch = map(json.loads, (finished_run.path / "metrics.jsonl").read_text("utf-8").splitlines())
    assert not any(key.startswith("parts/") for key in before) and epoch["num_steps"] == 2
    for name in set(parts) - {"head.activation"}:
        # A head that starts from zeros has no gradient for its norm in the first of two steps.
        assert epoch[f"parts/{name}/gradient_share"] == parts[name]["gradient_share"] >= 0.5
        assert epoch[f"parts/{name}/change"] == parts[name]["change"] > 0

    # What the head brings is known from stage 1 as well; and only what is wrong is said.
    without_head = parts["head"]["bypassed"]["test"]
    assert without_head["mrr"] == result["test"]["mrr_stage1"] and without_head["num_points"] == 48
    assert result["costs"]["operations_a_pair"] > parts["head.norm"]["operations"] > parts["head.norm"]["weights"]
    log = (finished_run.path / "train.log").read_text("utf-8")
    for message in warnings_of_parts(result):
        assert f"warning: {message}" in log and f"warning: {message}" in finished_run.ended.stdout
    idle = parts["head.activation"]["bypassed"]["val"]["num_changed"] == 0
    assert ("never acted" in log) <= idle

"""Two threads compute what one does: outputs, gradients and dropout, whatever their timing."""

import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.encoders import CPU, make_encoder, make_tokens
from torch import nn

from biencoder_ablate.encoder.packed import _attend_plainly, _drop
from biencoder_ablate.encoder.pretrained import ModelSource
from biencoder_ablate.encoder.texts import EncodedTexts, EncodeSettings, TextEncoder, back_in_order, packed_encoder
from biencoder_ablate.encoder.threads import TwoThreads, halves

ENCODERS = {pooling: make_encoder(pooling).eval() for pooling in ("mean", "cls", "pooler")}
LENGTHS = [4, 9, 2, 7, 7, 3, 16, 1]
ROWS = np.array([3, 0, 3, 6, 5, 2, 2, 7, 1, 4])


@pytest.fixture(autouse=True)
def two_kernel_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def source(pooling, threads, precision="fp32", encode_group=None):
    encoder = ENCODERS[pooling]
    group = encode_group or packed_encoder(encoder, pooling)
    return EncodedTexts(encoder, group, make_tokens(LENGTHS), CPU, precision, 20, 20, threads)


def gradients(texts, rows, weights):
    texts.module.zero_grad(set_to_none=True)
    (texts.pooled(rows) * weights).sum().backward()
    return {name: value.grad for name, value in texts.module.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_two_threads_give_the_outputs_and_gradients_of_one(pooling):
    weights = torch.randn(len(ROWS), ENCODERS[pooling].config.hidden_size, generator=torch.Generator().manual_seed(0))
    one, two = source(pooling, None), source(pooling, TwoThreads())
    assert torch.allclose(two.pooled(ROWS), one.pooled(ROWS), atol=1e-6)
    assert torch.allclose(two.all_pooled(), one.all_pooled(), atol=1e-6)
    assert not two.all_pooled().requires_grad
    expected, found = gradients(one, ROWS, weights), gradients(two, ROWS, weights)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


@pytest.mark.parametrize(("settings", "num_jobs"), [({}, 2), ({"compiled": True}, 1), ({"fast": False}, 1)])
def test_only_the_fast_path_as_it_stands_has_two_jobs_at_once(settings, num_jobs, monkeypatch):
    """What torch.compile makes has threads of its own; nothing is encoded here, so that nothing need be made."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    reading = EncodeSettings("mean", 16, CPU, **settings)
    encoder = TextEncoder(ENCODERS["mean"], None, ModelSource("tiny", None, ""), reading)
    threads = encoder.over(make_tokens(LENGTHS)).threads
    assert (1 if threads is None else 2) == num_jobs


def test_autocast_reaches_both_threads():
    one, two = source("mean", None, "bf16"), source("mean", TwoThreads(), "bf16")
    assert torch.allclose(two.all_pooled(), one.all_pooled(), atol=1e-6)
    assert not torch.equal(two.all_pooled(), source("mean", TwoThreads()).all_pooled())


def test_dropout_depends_on_the_seed_and_not_on_timing():
    encoder = make_encoder("mean", dropout=0.3)
    plain, calls = packed_encoder(encoder, "mean"), Counter()

    def slowly(tokens, rows, device, generator):
        calls[id(generator)] += 1
        time.sleep(0.01 * (calls.total() % 3))
        return plain(tokens, rows, device, generator)

    seen = []
    for seed, group in ((1, plain), (1, slowly), (2, plain)):
        torch.manual_seed(seed)
        texts = EncodedTexts(encoder, group, make_tokens(LENGTHS), CPU, "fp32", 20, 20, TwoThreads())
        weights = torch.ones(len(ROWS), 1)
        seen.append([texts.pooled(ROWS).detach(), *gradients(texts, ROWS, weights).values()])
    assert len(calls) >= 2
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not torch.equal(seen[0][0], seen[2][0])


def test_dropout_from_a_generator_keeps_the_mean_and_drops_the_share():
    dropout, x = nn.Dropout(0.25).train(), torch.ones(400, 500)
    dropped = _drop(dropout, x, torch.Generator().manual_seed(0))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert torch.equal(_drop(dropout.eval(), x, torch.Generator()), x)


def test_attention_with_a_generator_is_torchs_own_but_for_the_draws():
    q, k, v = torch.randn(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.3)
    found = _attend_plainly(nn.Dropout(0.5).eval(), 0.3, torch.Generator(), q, k, v)
    assert torch.allclose(found, expected, atol=1e-6)
    weights = torch.softmax(q * 0.3 @ k.mT, -1)
    dropout = nn.Dropout(0.5).train()
    dropped = _drop(dropout, weights, torch.Generator().manual_seed(7)) @ v
    assert torch.equal(_attend_plainly(dropout, 0.3, torch.Generator().manual_seed(7), q, k, v), dropped)


def test_an_error_in_a_thread_reaches_the_caller():
    def broken(*_, **__):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        source("mean", TwoThreads(), encode_group=broken).pooled(ROWS)
    with pytest.raises(MemoryError, match="no room"):
        source("mean", TwoThreads(), encode_group=broken).all_pooled()


def test_each_thread_has_half_of_the_kernel_threads_and_the_caller_keeps_them_all():
    torch.set_num_threads(4)
    seen = list(TwoThreads().map(lambda _: time.sleep(0.05) or torch.get_num_threads(), range(4)))
    assert seen == [2] * 4 and torch.get_num_threads() == 4


def test_each_distinct_text_is_encoded_once():
    plain, seen = packed_encoder(ENCODERS["mean"], "mean"), []

    def note(tokens, rows, device, **generator):
        seen.extend(rows.tolist())
        return plain(tokens, rows, device, **generator)

    for threads in (None, TwoThreads()):
        seen.clear()
        texts = source("mean", threads, encode_group=note)
        texts.pooled(ROWS)
        assert sorted(seen) == sorted(set(ROWS.tolist()))
        assert texts.flops(ROWS)[0] == sum(LENGTHS[row] for row in set(ROWS.tolist()))


def test_the_halves_have_draws_of_their_own_that_one_thread_makes_as_well():
    encoder = make_encoder("mean", dropout=0.3)
    plain, seeds, found = packed_encoder(encoder, "mean"), [], []

    def note(tokens, rows, device, generator):
        seeds.append(generator.initial_seed())
        return plain(tokens, rows, device, generator)

    for num_threads in (2, 1):
        torch.set_num_threads(num_threads)
        torch.manual_seed(5)
        found.append(EncodedTexts(encoder, note, make_tokens(LENGTHS), CPU, "fp32", 20, 20, TwoThreads()).pooled(ROWS))
    assert len(set(seeds)) == 2
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_one_text_needs_no_second_thread():
    texts = source("mean", TwoThreads())
    assert torch.allclose(texts.pooled(np.array([3, 3])), source("mean", None).pooled(np.array([3, 3])), atol=1e-6)


def test_halves_are_balanced_by_cost():
    """9 | 7; 5 to the lighter: 9 | 12; 4: 13 | 12; 2: 13 | 14."""
    first, second = halves(np.array([4.0, 9.0, 5.0, 2.0, 7.0]))
    assert first.tolist() == [1, 0] and second.tolist() == [4, 2, 3]


@given(st.lists(st.integers(1, 512), min_size=2, max_size=60))
def test_halves_share_out_every_text_and_differ_by_no_more_than_one(costs):
    values = np.array(costs, dtype=np.float64)
    first, second = halves(values)
    assert sorted([*first, *second]) == list(range(len(costs))) and len(first) and len(second)
    assert abs(values[first].sum() - values[second].sum()) <= values.max()
    back = back_in_order([first, second])
    assert np.array_equal(np.concatenate([values[first], values[second]])[back], values)

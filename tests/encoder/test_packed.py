"""The packed forward pass against transformers' own: outputs, gradients, dropout, bf16, and every way to attend."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoders import CPU, POSITIONS, make_encoder, make_tokens
from transformers import BertModel

import biencoder_ablate.encoder.packed as packed
from biencoder_ablate.encoder.texts import EncodedTexts, encode_rows, packed_encoder, plain_encoder

POOLINGS = ("mean", "cls", "pooler")
LENGTHS = st.lists(
    st.one_of(st.integers(1, POSITIONS), st.sampled_from([1, 1, 9, 9, POSITIONS])), min_size=1, max_size=9
)


def outputs_and_gradients(encoder, encode_group, tokens, rows, budget):
    encoder.zero_grad()
    h = encode_rows(encode_group, tokens, rows, budget, CPU)
    direction = torch.randn(h.shape, generator=torch.Generator().manual_seed(1))
    (h * direction).sum().backward()
    return h.detach(), {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}


def assert_equal(encoder, pooling, tokens, rows, budget=10**6, **options):
    expected, wanted = outputs_and_gradients(encoder, plain_encoder(encoder, pooling), tokens, rows, 1)
    found, got = outputs_and_gradients(encoder, packed_encoder(encoder, pooling, **options), tokens, rows, budget)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert got.keys() == wanted.keys()
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in wanted.values())
    for name, gradient in wanted.items():
        scale = float(gradient.abs().max()) + 1.0
        assert float((got[name] - gradient).abs().max()) < 2e-5 * scale, name


ENCODERS = {pooling: make_encoder(pooling) for pooling in POOLINGS}


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, budget=st.sampled_from([1, 50, 10**6]), seed=st.integers(0, 99))
def test_outputs_and_all_gradients_are_those_of_the_plain_path(pooling, lengths, budget, seed):
    rows = np.random.default_rng(seed).permutation(len(lengths))
    assert_equal(ENCODERS[pooling], pooling, make_tokens(lengths, seed), rows, budget)


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=8, deadline=None)
@given(lengths=LENGTHS)
def test_attention_with_padding_of_its_own_is_the_same(pooling, lengths):
    """The way for a GPU with dropout or float32, which runs anywhere."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packed, "_attend_in_runs", packed._attend_padded)
        assert_equal(ENCODERS[pooling], pooling, make_tokens(lengths), np.arange(len(lengths)))


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_the_activation_is_the_config_s(activation):
    assert_equal(make_encoder("mean", activation=activation), "mean", make_tokens([3, 17, 1]), np.arange(3))


@pytest.mark.slow
def test_compiled_it_is_the_same():
    torch._dynamo.reset()
    assert_equal(ENCODERS["mean"], "mean", make_tokens([3, 17, 1, 40, 40]), np.arange(5), compiled=True)


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_groups_for_padded_attention_hold_every_text_once_and_little_padding(lengths):
    lengths = np.sort(np.array(lengths))[::-1]
    groups = packed.groups_of(lengths)
    assert np.concatenate([np.arange(len(lengths))[group] for group in groups]).tolist() == list(range(len(lengths)))
    for group in groups:
        members = lengths[group]
        assert members.max() * len(members) <= packed.PADDING_ALLOWED * members.sum()


def test_a_text_does_not_see_its_neighbours():
    tokens = make_tokens([5, 9, 5])
    alone = encode_rows(packed_encoder(ENCODERS["mean"], "mean"), tokens, np.array([1]), 10**6, CPU)
    among = encode_rows(packed_encoder(ENCODERS["mean"], "mean"), tokens, np.arange(3), 10**6, CPU)
    torch.testing.assert_close(among[1:2], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("attend", ["_attend_in_runs", "_attend_padded", "a generator of its own"])
def test_dropout_falls_as_often_as_in_the_plain_path(pooling, attend, monkeypatch):
    """Means and spreads of outputs over many draws agree; without dropout, or with it elsewhere, they would not."""
    if attend == "_attend_padded":
        monkeypatch.setattr(packed, "_attend_in_runs", packed._attend_padded)
    own = {"generator": torch.Generator().manual_seed(0)} if attend == "a generator of its own" else {}
    encoder, tokens, rows = make_encoder(pooling, dropout=0.3), make_tokens([11] * 400), np.zeros(400, dtype=np.int64)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = encode_rows(plain_encoder(encoder, pooling), tokens, rows, 10**6, CPU)
        found = encode_rows(partial(packed_encoder(encoder, pooling), **own), tokens, rows, 10**6, CPU)
    assert float(found.std(0).min()) > 0.01, "no dropout at all"
    error = (plain.std(0) + found.std(0)) / 400**0.5
    assert float(((found.mean(0) - plain.mean(0)).abs() / error).max()) < 4
    ratio = float((found.std(0) / plain.std(0)).mean())
    assert 0.95 < ratio < 1.05, ratio


@pytest.mark.parametrize("place", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_each_dropout_alone_makes_outputs_random_in_training_and_not_in_evaluation(place):
    encoder = make_encoder("mean")
    setattr(encoder.config, place, 0.5)
    redone = BertModel(encoder.config, add_pooling_layer=False)
    tokens, rows = make_tokens([7, 7, 3]), np.arange(3)
    encode_group = packed_encoder(redone, "mean")
    for training in (True, False):
        redone.train(training)
        first, second = (encode_rows(encode_group, tokens, rows, 10**6, CPU) for _ in range(2))
        assert torch.equal(first, second) != training


def test_bf16_is_near_float32_and_gradients_are_float32():
    encoder, tokens = ENCODERS["pooler"], make_tokens([40, 3, 1, 22])
    source = EncodedTexts(encoder, packed_encoder(encoder, "pooler"), tokens, CPU, "bf16", 10**6, 10**6)
    encoder.zero_grad()
    h = source.pooled(np.arange(4))
    exact = EncodedTexts(encoder, packed_encoder(encoder, "pooler"), tokens, CPU, "fp32", 10**6, 10**6).all_pooled()
    assert h.dtype == torch.float32 and not torch.equal(h, exact)
    torch.testing.assert_close(h.detach(), exact, rtol=0, atol=0.1)
    h.sum().backward()
    assert all(weight.grad.dtype == torch.float32 for weight in encoder.parameters() if weight.grad is not None)


def test_gradients_of_attention_in_bf16_are_near_float32s_and_quick_on_a_cpu():
    """torch's own fused backward in bf16 took four times as long there as two products and a softmax."""
    random, lengths = torch.Generator().manual_seed(0), np.array([40, 40, 7])
    exact = torch.randn(3, 87, 4, 8, generator=random).bfloat16().float().requires_grad_()
    half = exact.detach().bfloat16().requires_grad_()
    attention = ENCODERS["mean"].encoder.layer[0].attention.self
    for of in (exact, half):
        packed._attend(
            attention, packed.AttentionInputs(*of, lengths, lengths), None, None
        ).float().square().sum().backward()
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), exact.grad, rtol=0.02, atol=0.02 * float(exact.grad.abs().max()))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        packed._attend(attention, packed.AttentionInputs(*half, lengths, lengths), None, None).sum().backward()
    assert not [event.key for event in profile.key_averages() if "flash" in event.key]


def test_means_of_texts_without_segment_reduce_are_the_same():
    """Apple's GPU has none; a tensor that only says it is there."""

    class Mps(torch.Tensor):
        device = property(lambda self: torch.device("mps"))

    x, lengths = torch.randn(9, 4), torch.tensor([3, 1, 5])
    expected = torch.stack([part.mean(0) for part in x.split(lengths.tolist())])
    for values in (x, x.as_subclass(Mps)):
        torch.testing.assert_close(packed._means(values, lengths).as_subclass(torch.Tensor), expected)


def test_the_module_is_left_as_it_was():
    encoder = make_encoder("cls")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encode_rows(packed_encoder(encoder, "cls"), make_tokens([4, 2]), np.arange(2), 10**6, CPU)
    after = encoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_it_is_near_float32_on_the_cpu(precision):
    encoder, tokens = make_encoder("mean"), make_tokens([40, 3, 1, 22, 22])
    expected = EncodedTexts(encoder, plain_encoder(encoder, "mean"), tokens, CPU, "fp32", 1, 1).all_pooled()
    device = torch.device("cuda")
    encoder.to(device)
    source = EncodedTexts(encoder, packed_encoder(encoder, "mean"), tokens, device, precision, 10**6, 10**6)
    torch.testing.assert_close(source.all_pooled().cpu(), expected, rtol=0, atol=0.1 if precision == "bf16" else 1e-2)

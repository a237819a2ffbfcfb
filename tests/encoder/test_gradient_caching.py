"""Texts in turns (gradient caching): the plain step's embeddings, dropout and gradients, holding one group's memory."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from biencoder_ablate.encoder.texts import CachedTexts, EncodedTexts, packed_encoder, plain_encoder
from biencoder_ablate.encoder.threads import TwoThreads
from biencoder_ablate.encoder.tokens import Tokens

LENGTHS = [4, 9, 2, 7, 7, 3, 16, 1, 12, 5]
ROWS = np.array([3, 0, 3, 6, 5, 2, 2, 7, 1, 4, 8, 9])
BUDGET = 20
"""Tokens of a group: the ten texts make six groups or more."""


def make_texts(dropout, threads=None, way=packed_encoder, pooling="mean"):
    config = BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=20,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = BertModel(config, add_pooling_layer=pooling == "pooler").train()
        for weight in encoder.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = np.random.default_rng(0).integers(0, 50, offsets[-1]).astype(np.int32)
    tokens = Tokens(ids, offsets, np.array(LENGTHS), 0)
    return EncodedTexts(encoder, way(encoder, pooling), tokens, torch.device("cpu"), "fp32", BUDGET, BUDGET, threads)


def loss_of(h):
    """Every text's gradient depends on every other text."""
    return torch.logsumexp(h @ h.T / 3, dim=1).sum() + (h * torch.arange(24)).sum() / 100


def plain_step(texts, seed):
    torch.manual_seed(seed)
    texts.module.zero_grad()
    h = texts.pooled(ROWS)
    drawn = torch.rand(2)
    loss_of(h).backward()
    return h.detach(), drawn, [value.grad for value in texts.module.parameters() if value.grad is not None]


def step_in_turns(texts, seed):
    torch.manual_seed(seed)
    texts.module.zero_grad()
    h, backward = texts.pooled_cached(ROWS)
    drawn = torch.rand(2)
    loss_of(h).backward()
    state = torch.get_rng_state()
    backward()
    assert torch.equal(torch.get_rng_state(), state), "what follows must not draw again what was drawn"
    return h.detach(), drawn, [value.grad for value in texts.module.parameters() if value.grad is not None]


def assert_same_gradients(found, expected):
    """To 1e-6 of the largest: a key's bias has none at all but for rounding."""
    assert len(found) == len(expected) > 20
    largest = max(value.abs().max().item() for value in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * largest)


@pytest.fixture(params=[1, 2])
def kernel_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("way", [packed_encoder, plain_encoder])
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_step_in_turns_is_the_plain_step(way, pooling, dropout):
    expected, found = (run(make_texts(dropout, None, way, pooling), 5) for run in (plain_step, step_in_turns))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1]), "as many draws were made"
    assert_same_gradients(found[2], expected[2])


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_step_in_turns_is_the_plain_step_of_two_threads(dropout, kernel_threads):
    """Half of the kernel threads may round a product differently: 1e-6, by far less than another draw of dropout."""
    expected, found = (run(make_texts(dropout, TwoThreads()), 5) for run in (plain_step, step_in_turns))
    if kernel_threads == 1:
        assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
    assert torch.equal(found[1], expected[1])
    assert_same_gradients(found[2], expected[2])


def test_dropout_is_drawn_anew_by_every_call_and_each_group_has_its_own():
    texts = make_texts(0.1)
    torch.manual_seed(0)
    first, second = (texts.pooled_cached(ROWS)[0].detach() for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


class Held:
    """Sums the bytes of what autograd has saved and not let go, the weights left out."""

    def __init__(self, module):
        self.weights = {value.untyped_storage().data_ptr() for value in module.parameters()}
        self.now = self.peak = 0

    def __enter__(self):
        held = self

        class Saved:
            def __init__(self, tensor):
                self.tensor = tensor
                self.size = 0 if tensor.untyped_storage().data_ptr() in held.weights else tensor.nbytes
                held.now += self.size
                held.peak = max(held.peak, held.now)

            def __del__(self):
                held.now -= self.size

        self.hooks = torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


def test_no_more_is_held_than_one_group_needs():
    texts = make_texts(0.1)
    largest = 0
    for row in range(len(LENGTHS)):
        for others in range(len(LENGTHS)):
            rows = np.arange(len(LENGTHS))[row : others + 1]
            if len(rows) and len(rows) * max(LENGTHS[row] for row in rows) <= BUDGET:
                with Held(texts.module) as one:
                    texts.pooled(rows)
                largest = max(largest, one.peak)
    with Held(texts.module) as plain:
        plain_step(texts, 0)
    with Held(texts.module) as turns:
        step_in_turns(texts, 0)
    assert 0 < turns.peak <= largest < plain.peak / 2.5
    assert turns.now == 0


def test_texts_from_a_cache_have_nothing_to_hand_on():
    features = torch.randn(10, 24, generator=torch.Generator().manual_seed(0))
    h, backward = CachedTexts(features).pooled_cached(ROWS)
    assert torch.equal(h, features[ROWS]) and backward() is None

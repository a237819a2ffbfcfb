"""Encoding in length groups against one text at a time, and gradients against plain padded encoding."""

import hashlib
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from support.helpers import load_sample

from biencoder_ablate.data.corpus import SPLITS
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.encoder.pretrained import (
    ModelSource,
    fingerprint_directory,
    is_same_encoder,
    load_encoder,
    load_tokenizer,
)
from biencoder_ablate.encoder.texts import EncodedTexts, encode, encode_rows, plain_encoder
from biencoder_ablate.encoder.tiny import COMMON_TOKENS, TINY_TOKENIZER, make_tiny
from biencoder_ablate.encoder.tokens import length_groups, pad, tokenize

CPU = torch.device("cpu")
POOLINGS = ("mean", "cls", "pooler")
MAX_TOKENS = 48
# From one token to more than MAX_TOKENS, many lengths, and two texts that are equal.
WORDS = " ".join(build_table(load_sample()).texts[:8]).split()
TEXTS = [
    "No",
    *(" ".join(WORDS[start : start + 2 + start % 37]) for start in range(0, 180, 11)),
    "No",
    " ".join(WORDS[:200]),
]


@pytest.fixture(scope="module")
def tiny_directory(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer(tiny_directory):
    return load_tokenizer(tiny_directory, 512)


@pytest.fixture(scope="module", params=POOLINGS)
def tiny(request, tiny_directory, tokenizer):
    """(encoder, pooling, tokens) of a tiny BERT over TEXTS, its weights far larger than at the start of training.

    Fresh weights hardly attend to anything; these make a text's output depend on every token and its place.
    """
    encoder = load_encoder(tiny_directory, request.param, MAX_TOKENS, 0.0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in encoder.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.1, generator=random)
    return encoder, request.param, tokenize(tokenizer, TEXTS, MAX_TOKENS)


def one_at_a_time(encoder, pooling, tokens):
    """Each text by itself, no padding and so no mask."""
    rows = [
        torch.from_numpy(tokens.ids[a:b].astype(np.int64))[None]
        for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    ]
    return torch.cat([encode(encoder, pooling, ids, None) for ids in rows])


@pytest.mark.parametrize("budget", [1, 60, 300, 10**6])
def test_length_groups_change_no_result(tiny, budget):
    encoder, pooling, tokens = tiny
    assert tokens.lengths.min() == 3 and tokens.lengths.max() == MAX_TOKENS
    rows = np.random.default_rng(0).permutation(len(TEXTS))
    with torch.no_grad():
        found = encode_rows(plain_encoder(encoder, pooling), tokens, rows, budget, CPU)
        expected = one_at_a_time(encoder, pooling, tokens)[torch.from_numpy(rows)]
    assert found.shape == (len(TEXTS), encoder.config.hidden_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # Only the two equal texts come out alike: a wrong order would be seen.
    assert torch.cdist(expected, expected).fill_diagonal_(1).lt(0.1).sum() == 2


def test_gradients_equal_those_of_plain_padded_encoding(tiny):
    encoder, pooling, tokens = tiny
    rows = np.random.default_rng(1).permutation(len(TEXTS))
    target = torch.randn(len(TEXTS), encoder.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def gradients(h):
        encoder.zero_grad(set_to_none=True)
        (h * target).sum().backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}

    ids, mask = pad(tokens, rows, CPU)
    plain = gradients(encode(encoder, pooling, ids, mask))
    grouped = gradients(encode_rows(plain_encoder(encoder, pooling), tokens, rows, 120, CPU))
    assert plain.keys() == grouped.keys() and len(plain) >= 20
    # One scale for all: a key's bias has no gradient but rounding, since softmax ignores what all keys share.
    scale = max(1.0, *(expected.abs().max().item() for expected in plain.values()))
    for name, expected in plain.items():
        torch.testing.assert_close(grouped[name], expected, rtol=0, atol=1e-5 * scale, msg=name)


def test_progress_counts_every_text_once(tiny):
    encoder, pooling, tokens = tiny
    done = []
    with torch.no_grad():
        encode_rows(plain_encoder(encoder, pooling), tokens, np.arange(len(TEXTS)), 100, CPU, done.append)
    assert sum(done) == len(TEXTS) and len(done) > 3


def test_all_hidden_is_in_eval_mode_without_gradients_and_leaves_the_mode(tiny, tiny_directory):
    _, pooling, tokens = tiny
    encoder = load_encoder(tiny_directory, pooling, MAX_TOKENS, 0.5)
    source = EncodedTexts(encoder, plain_encoder(encoder, pooling), tokens, CPU, "fp32", 200, 200)
    for mode in (True, False):
        encoder.train(mode)
        h = source.all_pooled()
        assert encoder.training is mode and not h.requires_grad
        encoder.eval()
        with torch.no_grad():
            torch.testing.assert_close(h, one_at_a_time(encoder, pooling, tokens), rtol=0, atol=1e-5)
    assert source.pooled(np.array([3, 0])).requires_grad
    assert source.flops(np.array([0, len(TEXTS) - 1]))[0] == 3 + MAX_TOKENS


def test_padding_and_mask(tokenizer):
    tokens = tokenize(tokenizer, TEXTS, MAX_TOKENS)
    rows = np.array([len(TEXTS) - 1, 0])
    ids, mask = pad(tokens, rows, CPU)
    own = tokenizer(
        [TEXTS[row] for row in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    assert torch.equal(ids, own["input_ids"]) and torch.equal(mask, own["attention_mask"])
    assert pad(tokens, np.array([0, len(TEXTS) - 2]), CPU)[1] is None, "nothing to mask among equal lengths"
    assert tokens.full_lengths[-1] > MAX_TOKENS == tokens.lengths[-1]


def test_a_long_text_is_cut_without_a_word_of_warning(tiny_directory, capfd, caplog):
    """The audit says what is cut; a library's "will result in indexing errors" would be untrue and frighten."""
    tokenizer = load_tokenizer(tiny_directory, 8)
    tokens = tokenize(tokenizer, TEXTS, 8)
    assert tokens.lengths.max() == 8
    assert capfd.readouterr().err == "" and not caplog.records
    last = tokens.ids[tokens.offsets[-2] :].tolist()
    assert (last[0], last[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_groups_are_within_budget_and_hold_every_text_once():
    lengths = np.random.default_rng(0).integers(1, 100, size=500)
    groups = length_groups(lengths, 400)
    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    assert all(lengths[group].max() * len(group) <= 400 for group in groups)
    assert [len(group) for group in length_groups(np.array([900, 5, 900]), 400)] == [1, 1, 1]
    assert length_groups(np.array([], dtype=np.int64), 400) == []


def test_the_tiny_model_is_made_once_and_is_the_same_bytes_in_every_cache(tiny_directory, tmp_path):
    other = make_tiny(tmp_path)
    names = sorted(path.name for path in tiny_directory.iterdir())
    assert names == sorted(path.name for path in other.iterdir()) and "model.safetensors" in names
    for name in names:
        assert (other / name).read_bytes() == (tiny_directory / name).read_bytes(), name
    stamps = [path.stat().st_mtime_ns for path in sorted(other.iterdir())]
    torch.manual_seed(99)
    assert make_tiny(tmp_path) == other
    assert [path.stat().st_mtime_ns for path in sorted(other.iterdir())] == stamps
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {other.name, f"{other.name}.sha256", f"{other.name}.lock"}


def test_a_damaged_tiny_model_is_made_anew(tiny_directory, tmp_path, capsys):
    other = make_tiny(tmp_path)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert make_tiny(tmp_path) == other
    assert weights.read_bytes() == (tiny_directory / weights.name).read_bytes()
    assert f"{other} is damaged" in capsys.readouterr().err


def test_the_tiny_model_s_tokenizer_ships_with_the_package_and_knows_the_sample(tokenizer):
    """As it was learned from the sample of 0.4.0: its vocabulary names every run of model=tiny."""
    assert fingerprint_directory(TINY_TOKENIZER)[:16] == "2846c162c1d6eec2"
    lower, upper = tokenizer(["Zoos should be closed.", "ZOOS SHOULD BE CLOSED."])["input_ids"]
    assert lower == upper and len(tokenizer) == 6000
    texts = [text for name in SPLITS for pair in load_sample().split(name) for text in (pair.point, pair.counter)]
    rows = tokenizer(texts)["input_ids"]
    assert all(tokenizer.unk_token_id not in row for row in rows)
    counts = Counter(token for row in rows for token in {*row})
    common = tokenizer.convert_tokens_to_ids(COMMON_TOKENS.split())
    assert min(counts[token] for token in common) > len(texts) / 15


def test_every_file_that_tokenization_depends_on_is_in_the_fingerprint(tmp_path):
    """transformers sets the normaliser by tokenizer_config.json: other token ids are another encoder."""
    model = make_tiny(tmp_path / "cache")
    fingerprints = {fingerprint_directory(model)}
    changes = {
        "tokenizer_config.json": '{"do_lower_case": false, "tokenizer_class": "BertTokenizer"}',
        "special_tokens_map.json": '{"unk_token": "[MASK]"}',
        "added_tokens.json": '{"zoo": 2000}',
    }
    for name, content in changes.items():
        changed = tmp_path / name
        shutil.copytree(model, changed)
        (changed / name).write_text(content, "utf-8")
        fingerprints.add(fingerprint_directory(changed))
    assert len(fingerprints) == 4


def test_a_run_of_an_earlier_version_still_finds_its_encoder(tmp_path):
    """Up to 0.4.0 the fingerprint was over config, weights and vocabulary alone."""
    model = make_tiny(tmp_path)
    lines = []
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        digest = hashlib.sha256((model / name).read_bytes()).hexdigest()
        lines.append(f"{name} {digest}\n")
    before = hashlib.sha256("".join(lines).encode()).hexdigest()
    source = ModelSource("tiny", model, fingerprint_directory(model))
    assert source.fingerprint != before
    assert is_same_encoder(before, source) and is_same_encoder(source.fingerprint, source)
    assert not is_same_encoder("0" * 64, source)

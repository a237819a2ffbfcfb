"""Small encoders with random weights, and texts for them."""

from collections import Counter

import numpy as np
import torch
from tokenizers import BertWordPieceTokenizer, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from biencoder_ablate.encoder.tokens import Tokens

CPU = torch.device("cpu")


def make_encoder(pooling, dropout=0.0, activation="gelu"):
    """A BERT of three layers whose output depends on every token and its place, in training mode."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=POSITIONS,
        hidden_act=activation,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    config._attn_implementation = "sdpa"
    random = torch.Generator().manual_seed(0)
    encoder = BertModel(config, add_pooling_layer=pooling == "pooler").train()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.normal_(0, 0.2, generator=random) if weight.ndim == 2 else weight.add_(
                0.1 * torch.randn(weight.shape, generator=random)
            )
    return encoder


def make_tokenizer(texts):
    """A lower-casing WordPiece tokenizer that knows every letter of `texts`, then every word, then parts of words, the
    most frequent first and 6000 tokens in all: the same in any process, unlike that of the library's own trainer."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    parts = Counter()
    for word, count in words.items():
        for cut in range(2, len(word) - 1):
            parts.update({word[:cut]: count, f"##{word[cut:]}": count})
    letters = sorted({letter for word in words for letter in word})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    by_count = sorted(words, key=lambda word: (-words[word], word))
    by_count += sorted(parts, key=lambda part: (-parts[part], -len(part), part))
    vocabulary = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *by_count])
    tokenizer = BertWordPieceTokenizer({token: number for number, token in enumerate([*vocabulary][:6000])})
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, model_max_length=512, **names)


def make_tokens(lengths, seed=0):
    """Texts of these lengths in tokens, some of them the padding token, which a text may contain."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, offsets[-1])
    return Tokens(ids.astype(np.int32), offsets, np.array(lengths), 0)


WIDTH, POSITIONS, VOCABULARY = 32, 40, 50

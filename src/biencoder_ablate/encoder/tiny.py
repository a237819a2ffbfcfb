"""model=tiny: a small BERT with random weights, for CI and for machines without weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from biencoder_ablate.data.corpus import SPLITS
from biencoder_ablate.utils.console import quiet_transformers
from biencoder_ablate.utils.files import whole_directory
from biencoder_ablate.utils.seeding import derive_seed

TINY_SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
}
TINY_VOCABULARY = 6000
_TINY_VERSION = 3
"""Raised when what `make_tiny` makes changes."""


def make_tiny(cache: Path) -> Path:
    """The directory in the cache with model=tiny: a small BERT with random weights and a vocabulary learned from the
    sample debates, the same on every machine. Made once."""
    directory = cache / f"tiny-{_TINY_VERSION}"
    if directory.exists():
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / ".tiny.lock"):
        if directory.exists():  # another process was faster
            return directory
        import torch
        from transformers import BertConfig, BertModel

        from biencoder_ablate.config.schema import DataConfig
        from biencoder_ablate.data.readers import read_sample

        corpus = read_sample(DataConfig())
        texts = [text for name in SPLITS for pair in corpus.split(name) for text in (pair.point, pair.counter)]
        tokenizer = learn_tokenizer(texts)
        config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **TINY_SHAPE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(0, "weights", "encoder"))
            encoder = BertModel(config, add_pooling_layer=True).float().eval()
        _start_from_words(encoder, tokenizer, texts)
        with whole_directory(directory) as partial, quiet_transformers():
            encoder.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    return directory


def _start_from_words(encoder: Any, tokenizer: Any, texts: Sequence[str]) -> None:
    """Let the random encoder tell texts apart by the rarer words they share, all it has to go by.

    Positions start at zero, and tokens found in over a tenth of the texts all start as one vector, so that
    neither blurs the mean of a text's tokens. Training is free to move them.
    """
    import torch

    embeddings = encoder.embeddings
    torch.nn.init.zeros_(embeddings.position_embeddings.weight)
    torch.nn.init.zeros_(embeddings.token_type_embeddings.weight)
    counts = Counter(token for row in tokenizer(list(texts), truncation=True)["input_ids"] for token in set(row))
    common = [token for token, count in counts.items() if count > len(texts) / 10]
    with torch.no_grad():
        embeddings.word_embeddings.weight[common] = embeddings.word_embeddings.weight[tokenizer.unk_token_id].clone()


def learn_tokenizer(texts: Sequence[str]) -> Any:
    """A lower-casing WordPiece tokenizer whose vocabulary comes from `texts`, as a transformers tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    vocabulary = learn_vocabulary(words, TINY_VOCABULARY)
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    cls, sep = (vocabulary.index(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    positions = TINY_SHAPE["max_position_embeddings"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **special)


def learn_vocabulary(words: Mapping[str, int], size: int) -> list[str]:
    """WordPieces for words with their counts: every letter, then whole words, then parts, most frequent first.

    The tokenizers library's own trainer breaks ties by the order of a hash table, which differs from process
    to process; here they go by the alphabet.
    """
    letters = sorted({letter for word in words for letter in word})
    pieces: Counter[str] = Counter()
    for word, count in words.items():
        for cut in range(2, len(word) - 1):
            pieces[word[:cut]] += count
            pieces[f"##{word[cut:]}"] += count
    base = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    whole = sorted(set(words) - set(base), key=lambda word: (-words[word], word))
    parts = sorted(set(pieces) - set(words) - set(base), key=lambda piece: (-pieces[piece], -len(piece), piece))
    return [*base, *whole, *parts][: max(size, len(base))]

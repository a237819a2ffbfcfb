"""Builds the encoder and its tokenizer: from files, or the tiny BERT with a vocabulary learned from texts.

Weights are loaded in float32 and from safetensors only; tokenizers through `from_pretrained`.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from biencoder_ablate.config import ConfigError
from biencoder_ablate.seeding import derive_seed

TINY_SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
}
TINY_VOCABULARY = 6000


def load_tokenizer(directory: Path, max_tokens: int) -> Any:
    """The fast tokenizer saved in `directory`, with an explicit maximum length in tokens."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), model_max_length=max_tokens, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"model.name_or_path={directory}: its tokenizer cannot be read ({_first_line(error)})"
        ) from error
    if None in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id):
        raise ConfigError(f"model.name_or_path={directory}: its tokenizer has no [CLS], [SEP] or [PAD]; must be BERT's")
    return tokenizer


def load_encoder(directory: Path, pooling: str, max_tokens: int, dropout: float | None) -> Any:
    """The BertModel saved in `directory`, float32, on the CPU, in eval mode.

    Raises ConfigError for another kind of model, missing weights (a pooler among them), or max_tokens beyond
    its position embeddings.
    """
    from transformers import AutoConfig, BertModel

    where = f"model.name_or_path={directory}"
    try:
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: its config.json cannot be read ({_first_line(error)})") from error
    if config.model_type != "bert":
        raise ConfigError(f"{where}: is a {config.model_type} model; must be a BERT (model_type bert)")
    if max_tokens > config.max_position_embeddings:
        raise ConfigError(
            f"model.max_tokens={max_tokens}: this encoder has {config.max_position_embeddings} positions; "
            f"must be at most that"
        )
    _set_dropout(config, dropout)
    with quiet_transformers():
        try:
            loaded: Any = BertModel.from_pretrained(
                str(directory),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                add_pooling_layer=pooling == "pooler",
                attn_implementation="sdpa",
                output_loading_info=True,
            )
        except Exception as error:  # safetensors, transformers and the OS each raise their own
            raise ConfigError(f"{where}: its weights cannot be read ({_first_line(error)})") from error
    encoder, info = loaded
    missing = sorted(info["missing_keys"])
    if any(key.startswith("pooler") for key in missing):
        raise ConfigError(f"model.pooling=pooler: {directory} has no pooler weights; must be mean or cls")
    if missing:
        raise ConfigError(f"{where}: weights are missing, {missing[0]} among {len(missing)}")
    return encoder


def build_tiny(
    texts: Sequence[str], pooling: str, max_tokens: int, dropout: float | None, seed: int
) -> tuple[Any, Any]:
    """(encoder, tokenizer): a small BERT with random weights, its WordPiece vocabulary learned from `texts`."""
    from transformers import BertConfig, BertModel

    tokenizer = learn_tokenizer(texts, max_tokens)
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **TINY_SHAPE)
    if max_tokens > config.max_position_embeddings:
        raise ConfigError(f"model.max_tokens={max_tokens}: model=tiny has {config.max_position_embeddings} positions")
    config._attn_implementation = "sdpa"
    _set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights", "encoder"))
        encoder = BertModel(config, add_pooling_layer=pooling == "pooler").float().eval()
        _start_from_words(encoder, tokenizer, texts)
    return encoder, tokenizer


def _start_from_words(encoder: Any, tokenizer: Any, texts: Sequence[str]) -> None:
    """Let the untrained encoder tell texts apart by the rarer words they share, all it has to go by.

    Positions start at zero, and tokens found in over a tenth of the texts all start as one vector, so that
    neither blurs the mean of a text's tokens. Training is free to move them.
    """
    embeddings = encoder.embeddings
    torch.nn.init.zeros_(embeddings.position_embeddings.weight)
    torch.nn.init.zeros_(embeddings.token_type_embeddings.weight)
    counts = Counter(token for row in tokenizer(list(texts), truncation=True)["input_ids"] for token in set(row))
    common = [token for token, count in counts.items() if count > len(texts) / 10]
    with torch.no_grad():
        embeddings.word_embeddings.weight[common] = embeddings.word_embeddings.weight[tokenizer.unk_token_id].clone()


def learn_tokenizer(texts: Sequence[str], max_tokens: int) -> Any:
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
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


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


@contextlib.contextmanager
def quiet_transformers():
    """Keep transformers' progress bars and load reports off the screen: what matters is raised or logged."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _set_dropout(config: Any, dropout: float | None) -> None:
    if dropout is not None:
        config.hidden_dropout_prob = dropout
        config.attention_probs_dropout_prob = dropout


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__

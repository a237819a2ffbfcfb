"""model=tiny: a small BERT with random weights, for CI and for machines without weights.

Its tokenizer lies beside this file, in tiny_tokenizer/: lower-casing WordPiece, with a vocabulary that was learned once
from the sample debates of version 0.4.0: every letter, then whole words, then parts of words, the most frequent first.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from biencoder_ablate.utils.cache import load_entry, locked_entry, seal
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
TINY_TOKENIZER = Path(__file__).with_name("tiny_tokenizer")
COMMON_TOKENS = (
    "[CLS] [SEP] ' , - . : ; a s the and to of is for in that on it with are can at be or who not an would from by as "
    "them one no people they than their those so have because will which without may every has up more what only when"
)
"""The tokens that stood in over a tenth of the texts of the sample of version 0.4.0, and are common in any English."""

_TINY_VERSION = 3
"""Raised when what `make_tiny` makes changes."""


def make_tiny(cache: Path) -> Path:
    """The directory in the cache with model=tiny, the same on every machine; made once.

    Raises OSError where it cannot be written.
    """
    directory = cache / f"tiny-{_TINY_VERSION}"
    if load_entry(directory, Path.is_dir):
        return directory

    with locked_entry(directory):
        if load_entry(directory, Path.is_dir):  # another process was faster
            return directory
        encoder = _tiny_encoder()
        with whole_directory(directory) as partial, quiet_transformers():
            encoder.save_pretrained(partial)
            for file in TINY_TOKENIZER.glob("*.json"):
                shutil.copyfile(file, partial / file.name)
        seal(directory)
    return directory


def _tiny_encoder() -> Any:
    """A BertModel with random weights that tells texts apart by the rarer words they share, all it has to go by.

    Positions start at zero, and all common tokens start as one vector, so that neither blurs the mean of a text's
    tokens. Training is free to move them.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    tokenizer = Tokenizer.from_file(str(TINY_TOKENIZER / "tokenizer.json"))
    pad_id = tokenizer.token_to_id("[PAD]")
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), pad_token_id=pad_id, **TINY_SHAPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "weights", "encoder"))
        encoder = BertModel(config, add_pooling_layer=True).float().eval()

    embeddings = encoder.embeddings
    torch.nn.init.zeros_(embeddings.position_embeddings.weight)
    torch.nn.init.zeros_(embeddings.token_type_embeddings.weight)
    words = embeddings.word_embeddings.weight  # (vocabulary, 512)
    common_ids = [tokenizer.token_to_id(token) for token in COMMON_TOKENS.split()]
    with torch.no_grad():
        words[common_ids] = words[tokenizer.token_to_id("[UNK]")].clone()
    return encoder

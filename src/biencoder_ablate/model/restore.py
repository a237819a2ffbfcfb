"""A selected model back from RUN/model: what save.py wrote, read and checked.

The encoder comes back separately, for a frozen one need not be loaded where its pooled outputs are cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from biencoder_ablate.config import ConfigError, ModelConfig
from biencoder_ablate.data.tokens import tokenize
from biencoder_ablate.files import read_json
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.model.encoding import packed_encoder, plain_encoder
from biencoder_ablate.model.source import find_model, fingerprint_directory
from biencoder_ablate.model.texts import Advance, EncodedTexts
from biencoder_ablate.model.threads import TwoThreads


@dataclass(frozen=True)
class Contract:
    """What biencoder.json says of the weights beside it."""

    directory: Path
    encoder_name: str
    encoder_fingerprint: str
    copied: bool
    """Whether the encoder's weights lie in `directory`/encoder; else it was frozen, and is found by its name."""
    pooling: str
    max_tokens: int
    architecture: Architecture

    @property
    def built(self) -> bool:
        """Whether the encoder began as model=tiny, built from training texts, and not from files."""
        return self.encoder_fingerprint.startswith("tiny-")


def read_contract(directory: Path) -> Contract:
    """The contract in `directory`. Raises ConfigError where there is none, or not one of ours."""
    path = directory / "biencoder.json"
    found = read_json(path)
    if found is None:
        what = "cannot be read as JSON" if path.exists() else "no such file"
        raise ConfigError(f"{path}: {what}; must be the model of a finished run (training.save_model=true)")
    try:
        encoder = found["encoder"]
        return Contract(
            directory,
            encoder["name"],
            encoder["fingerprint"],
            bool(encoder["copied"]),
            encoder["pooling"],
            int(encoder["max_tokens"]),
            Architecture(**found["architecture"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a contract that this version knows ({type(error).__name__}: {error}); "
            "train the run again with rerun=true"
        ) from error


def restore_biencoder(contract: Contract) -> BiEncoder:
    """linear1 and the head with the selected weights, on the CPU, in eval mode, without the encoder.

    Raises ConfigError for weights that are missing, damaged or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model = BiEncoder(contract.architecture)
    path = contract.directory / "biencoder.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: cannot be loaded ({reason}); train the run again with rerun=true") from error
    return model.eval()


def encoder_directory(contract: Contract, name_or_path: str | None = None, revision: str | None = None) -> Path | None:
    """Where the encoder's files are: the run's own copy, or those of the frozen encoder, found again by name.

    name_or_path: where to look for a frozen encoder instead, as after its directory has moved. None comes back
    for a frozen model=tiny, which has no files: it is built from the run's training texts and seed. Raises
    ConfigError when what is found is not what the run was trained with.
    """
    if contract.copied:
        return contract.directory / "encoder"
    name = name_or_path or (None if contract.built else contract.encoder_name)
    source = find_model(ModelConfig(name="tiny", name_or_path=name, revision=revision))
    if source.fingerprint != contract.encoder_fingerprint:
        raise ConfigError(
            f"model.name_or_path={name or 'null'}: not the encoder that the run was trained with "
            f"(fingerprint {source.fingerprint[:12]}, the run's is {contract.encoder_fingerprint[:12]}); "
            "give the directory or name of the one that was, or train the run again"
        )
    return source.directory


def encoder_fingerprint(contract: Contract) -> str:
    """What determines the encoder's outputs: sha256 over the run's own copy, or the frozen encoder's."""
    return fingerprint_directory(contract.directory / "encoder") if contract.copied else contract.encoder_fingerprint


@dataclass(frozen=True)
class TextEncoder:
    """An encoder with its tokenizer, ready for texts that no corpus holds."""

    module: Any
    tokenizer: Any
    pooling: str
    max_tokens: int
    device: torch.device
    precision: str
    token_budget: int
    fast: bool

    def __call__(self, texts: Sequence[str], advance: Advance | None = None) -> torch.Tensor:
        """Pooled outputs h (B, H) of the texts, in eval mode; `advance` is told how many more are done."""
        tokens = tokenize(self.tokenizer, texts, self.max_tokens)
        encode_group = (packed_encoder if self.fast else plain_encoder)(self.module, self.pooling)
        encoded = EncodedTexts(
            self.module,
            encode_group,
            tokens,
            self.device,
            self.precision,
            self.token_budget,
            self.token_budget,
            TwoThreads() if self.fast and self.device.type == "cpu" else None,
        )
        return encoded.all_hidden(advance)

    def num_tokens(self, text: str) -> int:
        """Length of a text in tokens before it is cut, [CLS] and [SEP] included."""
        return int(tokenize(self.tokenizer, [text], self.max_tokens).full_lengths[0])


def load_restored_encoder(contract: Contract, directory: Path, max_tokens: int) -> tuple[Any, Any]:
    """(encoder, tokenizer) from `directory`, in eval mode on the CPU. Raises ConfigError as model/load.py does."""
    from biencoder_ablate.model.load import load_encoder, load_tokenizer

    encoder = load_encoder(directory, contract.pooling, max_tokens, dropout=None)
    found, wanted = encoder.config.hidden_size, contract.architecture.pooled_dim
    if found != wanted:
        raise ConfigError(f"{directory}: an encoder of width {found}; the run's is {wanted} wide")
    return encoder.eval(), load_tokenizer(directory, max_tokens)

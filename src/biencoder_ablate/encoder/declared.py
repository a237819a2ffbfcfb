"""What a sentence-transformers directory says of how its encoder is used, and where a run uses it in another way.

The run's own settings hold (docs/models.md); what differs is said, since the figures are then not those of that model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biencoder_ablate.config import ModelConfig
from biencoder_ablate.utils.files import read_regular

DECLARING_FILES = (
    "modules.json",
    "*_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""The files, as the hub's patterns name them."""
_POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of a pooling module's config up to version 5 of the library, and what version 6 calls these ways."""
_QUERY_PROMPTS = ("query", "s2p_query")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""What prompts of texts that ask, and of those that are ranked, are called (encode_query, encode_document)."""


def differences(directory: Path, model: ModelConfig) -> list[str]:
    """A sentence for each setting in which a run differs from what the directory says; none for any other directory."""
    modules = _read(directory / "modules.json", list)
    if not modules:
        return []
    kinds = {str(module.get("type")).rpartition(".")[2]: module for module in modules if isinstance(module, dict)}
    said = []

    file = Path(str(kinds.get("Pooling", {}).get("path") or "."), "config.json")
    pooling = _pooling(_read(directory / file, dict)) if "Pooling" in kinds else None
    if pooling is not None and pooling != model.pooling:
        said.append(f"{file} pools by {pooling}, this run by model.pooling={model.pooling}")

    others = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if others:
        said.append(f"modules.json has {', '.join(others)} as well, which this run leaves out")

    reading = _read(directory / "sentence_bert_config.json", dict)
    length = reading.get("max_seq_length")
    if isinstance(length, int) and length != model.max_tokens:
        said.append(
            f"sentence_bert_config.json has max_seq_length {length}, this run model.max_tokens={model.max_tokens}"
        )
    if reading.get("do_lower_case") is True:
        said.append(
            "sentence_bert_config.json has do_lower_case true, this run gives texts to the tokenizer as they are"
        )

    prompts = _read(directory / "config_sentence_transformers.json", dict).get("prompts")
    if isinstance(prompts, dict):
        asks = {"point_prompt": _QUERY_PROMPTS, "candidate_prompt": _DOCUMENT_PROMPTS}
        for key, names in asks.items():
            prompt = next((prompts[name] for name in names if isinstance(prompts.get(name), str)), "")
            given = getattr(model, key)
            if prompt != (given or ""):
                given = "null" if given is None else json.dumps(given, ensure_ascii=False)
                shown = json.dumps(prompt, ensure_ascii=False)
                said.append(f"config_sentence_transformers.json has the prompt {shown}, this run model.{key}={given}")
    return said


def _pooling(config: Mapping[str, Any]) -> str | None:
    """The way of pooling in a pooling module's config; several joined by +."""
    modes = config.get("pooling_mode") or [mode for key, mode in _POOLING_MODES.items() if config.get(key) is True]
    return "+".join([modes] if isinstance(modes, str) else map(str, modes)) or None


def _read(path: Path, kind: type) -> Any:
    """The JSON in a file; empty where there is none of that kind: these files are another program's, and optional."""
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return kind()
    return value if isinstance(value, kind) else kind()

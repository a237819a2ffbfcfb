"""A selected model on disk: weights, and the contract that goes with them (pooling, lengths, shapes).

model/biencoder.json says what it is; model/biencoder.safetensors holds linear1 and the head; model/encoder/
the trained encoder and its tokenizer as transformers saves them. A frozen encoder is referred to by name and
fingerprint, not copied.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from biencoder_ablate.files import write_json
from biencoder_ablate.model.load import quiet_transformers


def save_model(
    directory: Path, state: dict[str, Any], encoder: Any | None, tokenizer: Any | None, contract: dict[str, Any]
) -> None:
    """Write the model into `directory`, which appears whole or not at all."""
    from safetensors.torch import save_file

    partial = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    own = {name: value.contiguous() for name, value in state.items() if not name.startswith("encoder.")}
    save_file(own, partial / "biencoder.safetensors")
    if encoder is not None:
        assert tokenizer is not None
        with quiet_transformers():
            encoder.save_pretrained(partial / "encoder")
            tokenizer.save_pretrained(partial / "encoder")
    write_json(partial / "biencoder.json", contract)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)

"""A selected model on disk: weights, and the contract that goes with them (pooling, lengths, shapes).

model/biencoder.json says what it is; model/biencoder.safetensors holds linear1 and the head; model/encoder/
the trained encoder and its tokenizer as transformers saves them. A frozen encoder is referred to by name and
fingerprint, not copied.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

from biencoder_ablate.files import PART, give_usual_rights, write_json
from biencoder_ablate.model.load import quiet_transformers


def save_model(
    directory: Path, state: dict[str, Any], encoder: Any | None, tokenizer: Any | None, contract: dict[str, Any]
) -> None:
    """Write the model into `directory`, which appears whole or not at all. Raises OSError."""
    partial = directory.with_name(f".{directory.name}{PART}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, state, encoder, tokenizer, contract)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(
    directory: Path, state: dict[str, Any], encoder: Any | None, tokenizer: Any | None, contract: dict[str, Any]
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    own = {name: value.contiguous() for name, value in state.items() if not name.startswith("encoder.")}
    try:
        save_file(own, directory / "biencoder.safetensors")
        if encoder is not None:
            assert tokenizer is not None
            with quiet_transformers():
                encoder.save_pretrained(directory / "encoder")
                tokenizer.save_pretrained(directory / "encoder")
    except SafetensorError as error:  # says "… (os error 28)", and is no OSError
        raise _as_os_error(error, directory) from error
    write_json(directory / "biencoder.json", contract)
    for path in directory.rglob("*"):
        if path.is_file():
            give_usual_rights(path)


def _as_os_error(error: Exception, directory: Path) -> OSError:
    number = re.search(r"os error (\d+)", str(error))
    code = int(number[1]) if number else errno.EIO
    return OSError(code, os.strerror(code) if number else str(error), str(directory))

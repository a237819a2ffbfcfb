"""A selected model on disk and back: weights, and what goes with them (pooling, lengths, shapes).

model/biencoder.json says what it is; model/biencoder.safetensors holds the projections and the head; model/encoder/
the trained encoder and its tokenizer as transformers saves them. An encoder as downloaded is referred to by name and
fingerprint, not copied. What is loaded is never executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import ConfigError, ModelConfig
from biencoder_ablate.encoder.pretrained import ModelSource, find_model, fingerprint_directory, is_same_encoder
from biencoder_ablate.model.biencoder import Architecture, BiEncoder
from biencoder_ablate.utils.console import format_error, quiet_transformers
from biencoder_ablate.utils.files import (
    Damaged,
    copy_regular,
    load_json,
    open_regular,
    require,
    whole_directory,
    write_json,
)

ENCODER_PLACES = ("encoder", "../..", "../../transformer")
"""Where a copied encoder may lie, as seen from biencoder.json: beside it, or in an export around it."""
_WIDEST = 65_536
"""No encoder's h, and no r, is wider: a width above it is a mistake, and would ask for the memory first."""


@dataclass(frozen=True)
class ModelSpec:
    """What biencoder.json says of the weights beside it."""

    encoder_name: str
    encoder_fingerprint: str
    copied: bool
    """Whether the encoder's weights lie beside it, in encoder/; else it is as downloaded, and is found by its name."""
    pooling: str
    max_tokens: int
    architecture: Architecture
    encoder_directory: str = "encoder"
    """Where a copied encoder lies, as seen from biencoder.json."""
    point_prompt: str | None = None
    candidate_prompt: str | None = None


def save_model(
    directory: Path,
    spec: ModelSpec,
    state: Mapping[str, Any],
    encoder: tuple[Any, Any] | None,
    encoder_files: Path | None = None,
) -> None:
    """Write the model into `directory`, which appears whole or not at all: with a trained `encoder` and its tokenizer,
    or with the files of one that another run has trained. Raises OSError."""
    from safetensors.torch import save_file

    # The encoder's own weights are saved as transformers does, or not at all.
    weights = {name: value.contiguous() for name, value in state.items() if not name.startswith("encoder.")}
    with whole_directory(directory) as partial:
        save_file(weights, partial / "biencoder.safetensors")
        if encoder is not None:
            with quiet_transformers():
                for part in encoder:
                    part.save_pretrained(partial / "encoder")
        elif encoder_files is not None:
            (partial / "encoder").mkdir()
            for file in encoder_files.iterdir():
                copy_regular(file, partial / "encoder" / file.name)
        write_json(partial / "biencoder.json", asdict(spec))


def read_model_spec(directory: Path) -> ModelSpec:
    """What the model in `directory` is. Raises ConfigError where there is none, or not one of ours."""
    path = directory / "biencoder.json"
    try:
        values = load_json(path)
    except (OSError, Damaged) as error:
        problem = error.problem if isinstance(error, Damaged) else "no such file"
        raise ConfigError(
            f"{path}: {problem}; must be the model of a finished run (training.save_model=true)"
        ) from error
    try:
        require(path, values, encoder_name=str, encoder_fingerprint=str, copied=bool, pooling=str, max_tokens=int)
        for key in ("encoder_directory", "point_prompt", "candidate_prompt"):
            if values.get(key) is not None:
                require(path, values, **{key: str})
        if values.get("encoder_directory", "encoder") not in ENCODER_PLACES:
            raise ValueError(f"encoder_directory={values['encoder_directory']}")
        architecture = Architecture(**require(path, values, architecture=dict)["architecture"])
        for width in (architecture.pooled_dim, architecture.retrieval_dim or 1):
            if type(width) is not int or not 1 <= width <= _WIDEST:
                raise ValueError(f"a width of {width}")
        return ModelSpec(**(values | {"architecture": architecture}))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a contract that this version knows ({type(error).__name__}: {error}); "
            "train the run again with rerun=true"
        ) from error


def restore_biencoder(directory: Path, spec: ModelSpec) -> BiEncoder:
    """The projections and the head with the selected weights, on the CPU, in eval mode, without the encoder.

    Raises ConfigError for weights that are missing, damaged or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / "biencoder.safetensors"
    try:
        model = BiEncoder(spec.architecture)
    # The heads' own assertions as well: what biencoder.json says is not checked against what a head takes.
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{directory / 'biencoder.json'}: no model can be made of it ({format_error(error, brief=True)}); "
            "train the run again with rerun=true"
        ) from error
    try:
        open_regular(path).close()  # the library would wait for what a pipe never says
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: cannot be loaded ({reason}); train the run again with rerun=true") from error
    return model.eval()


def encoder_source(directory: Path, spec: ModelSpec, settings: ModelConfig, cache: Path) -> ModelSource:
    """Where the encoder's files are: the run's own copy, or those of the frozen encoder, found again by its name.

    settings.name_or_path: where to look for a frozen encoder instead, as after its directory has moved. Raises
    ConfigError when what is found is not what the run was trained with.
    """
    if spec.copied:
        copy = directory / spec.encoder_directory
        return ModelSource(spec.encoder_name, copy, fingerprint_directory(copy))
    source = find_model(settings, cache)
    if not is_same_encoder(spec.encoder_fingerprint, source):
        raise ConfigError(
            f"model.name_or_path={settings.name_or_path or 'null'}: not the encoder that the run was trained with "
            f"(fingerprint {source.fingerprint[:12]}, the run's is {spec.encoder_fingerprint[:12]}); "
            "give the directory or name of the one that was, or train the run again"
        )
    return source

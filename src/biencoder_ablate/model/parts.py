"""The parts of a bi-encoder that an ablation may ask about, as its modules show them, and the model without one.

A part is the encoder, a projection, the head, the weight of the similarity, or a layer of the head: any module within
it that has no modules of its own, whoever wrote the head. What a head computes without a module belongs to the head.

T texts, H pooled width, R retrieval width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.heads import LinearHead

PROJECTIONS = {"linear1": "projection", "linear1_candidate": "projection of candidates"}
SIMILARITY = "similarity_weight"
_MAPS = (nn.Linear, nn.Bilinear, nn.Embedding, nn.modules.dropout._DropoutNd)
"""Layers that are not bypassed by themselves: without them there are no logits, or they do nothing outside training."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part by its name among the model's modules ("head.norm"), in words ("LayerNorm"), and its weights by name.

    `module` is None for the weight of the similarity and for a frozen encoder, whose weights the model does not hold.
    `bypass` says what takes its place once it is bypassed: `identity` (a layer passes on what it is given), `start` (a
    projection is as before training), `distance` (the order of stage 1 stays), `head` (stage 2 ranks by the head alone)
    or nothing, where it cannot be bypassed.
    """

    name: str
    words: str
    module: nn.Module | None = None
    weights: Mapping[str, nn.Parameter] = field(default_factory=dict)
    bypass: str | None = None

    @property
    def is_layer(self) -> bool:
        return self.name.startswith("head.")

    @property
    def num_weights(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())


def parts_of(model: BiEncoder) -> list[Part]:
    """The parts of a model: encoder, projections, head, layers of the head, weight of the similarity."""
    encoder = Part("encoder", "frozen encoder")
    if model.encoder is not None:
        encoder = _module_part("encoder", "encoder", model.encoder)
    parts = [encoder]
    for name, words in PROJECTIONS.items():
        projection = getattr(model, name)
        if projection is not None and any(True for _ in projection.parameters()):
            parts.append(_module_part(name, words, projection, "start"))

    parts.append(_module_part("head", "head", model.head, "distance"))
    for name, module in model.head.named_modules(prefix="head"):
        is_leaf = not any(True for _ in module.children())
        if module is model.head or not is_leaf or isinstance(module, nn.Identity):
            continue
        bypass = None if isinstance(module, _MAPS) else "identity"
        parts.append(_module_part(name, type(module).__name__, module, bypass))

    if model.architecture.score == "sum":
        weights = {SIMILARITY: model.similarity_weight}
        parts.append(Part(SIMILARITY, "weight of the similarity", weights=weights, bypass="head"))
    return parts


def _module_part(name: str, words: str, module: nn.Module, bypass: str | None = None) -> Part:
    weights = dict(module.named_parameters(prefix=name))
    return Part(name, words, module, weights, bypass)


# --- the model without a part ---


class NotBypassed(Exception):
    """A layer that cannot be bypassed; says why."""


@contextmanager
def bypassed(model: BiEncoder, part: Part, start: Mapping[str, Tensor]) -> Iterator[BiEncoder]:
    """The model with a part bypassed, for as long as the `with` lasts; the model itself stays as it is.

    `start` are the weights before training, by name, of which a projection needs its own. The part must not be one of
    `distance`: that is a way to rank, and no other model. Raises NotBypassed, on leaving, where a layer of a head of
    one's own was never called or gives another shape than it is given.
    """
    if part.bypass == "head":
        bypassing = copy.copy(model)
        bypassing.architecture = replace(model.architecture, score="head")
        yield bypassing
    elif part.bypass == "start":
        assert part.module is not None
        yield _with_module(model, part.name, _with_weights(part, start))
    elif type(model.head) is LinearHead:
        # With torch's own identity in its place the fast way of scoring stays open.
        yield _with_module(model, part.name, nn.Identity())
    else:
        with _passing_on(part):
            yield model


def _with_module(model: nn.Module, path: str, module: nn.Module) -> Any:
    """A copy of the model with another module at `path`, which shares everything else with it."""
    first, _, rest = path.partition(".")
    inner = getattr(model, first)
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other._modules[first] = _with_module(inner, rest, module) if rest else module
    return other


def _with_weights(part: Part, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a part's module with other weights."""
    module = copy.deepcopy(part.module)
    assert module is not None
    with torch.no_grad():
        for name, weight in module.named_parameters(prefix=part.name):
            weight.copy_(weights[name])
    return module


@contextmanager
def _passing_on(part: Part) -> Iterator[None]:
    """Have a layer pass on what it is given, wherever its head calls it. Raises NotBypassed as `bypassed`."""
    problems = {"its head never calls it"}

    def pass_on(module: nn.Module, given: tuple[Any, ...], found: Any) -> Any:
        problems.discard("its head never calls it")
        first = given[0] if given else None
        if isinstance(first, Tensor) and isinstance(found, Tensor) and first.shape == found.shape:
            return first
        problems.add("it gives another shape than it is given")
        return found

    assert part.module is not None
    handle = part.module.register_forward_hook(pass_on)
    try:
        yield
    finally:
        handle.remove()
    if problems:
        raise NotBypassed(min(problems))

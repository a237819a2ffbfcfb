"""Watches the parts of a model while it is trained: which get a gradient, how far their weights move, which layers act.

Counted on the device, and read once an epoch. Nothing here changes what is trained, nor draws a random number.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.parts import PROJECTIONS, parts_of
from biencoder_ablate.runs.records import Record

LOOKED_AT = 1024
"""Of a tensor with more values than four times this, about so many, evenly spaced, are looked at for a gradient; and
kept of an encoder's weights, to tell how far they have moved."""
ENCODER_TENSORS = 8
"""Of an encoder's tensors so many, evenly spaced, are looked at for a gradient."""


def _step(num_values: int, at_most: int = 4 * LOOKED_AT) -> int:
    """How far apart the values of a tensor lie that are looked at: all of up to `at_most`, else about LOOKED_AT."""
    # An odd step visits all columns of a matrix whose width is a power of two.
    return 1 if num_values <= at_most else num_values // LOOKED_AT | 1


def _sampled(values: Tensor, at_most: int = 4 * LOOKED_AT) -> Tensor:
    """The values that are looked at, flat."""
    flat = values.detach().reshape(-1)
    return flat[:: _step(flat.numel(), at_most)]


class PartsWatch:
    """Watches the parts of a model while it is trained. Made before the first step: the weights are then the start.

    `parts` are the model's, and `start` the weights that it started from, by name (those of an encoder are not kept).
    """

    def __init__(self, model: BiEncoder) -> None:
        self.parts = parts_of(model)
        self.start: dict[str, Tensor] = {}
        self._encoder_start: dict[str, Tensor] = {}
        watched: dict[str, nn.Parameter] = {}
        for part in self.parts:
            weights = part.weights
            if part.name == "encoder":
                for name, weight in weights.items():
                    self._encoder_start[name] = _sampled(weight, LOOKED_AT).clone()
                every = max(1, len(weights) // ENCODER_TENSORS)
                weights = dict(list(weights.items())[::every])
            else:
                self.start |= {name: weight.detach().clone() for name, weight in weights.items()}
            watched |= weights

        # Counts of steps: one for each tensor that is looked at, and one for each layer without weights.
        self._names = list(watched)
        self._weights = list(watched.values())
        self._steps = [_step(weight.numel()) for weight in self._weights]
        device = next(
            (weight.device for weight in self._weights),
            torch.device("cpu"),
        )
        self._zero = torch.zeros((), device=device)
        num_tensors = len(watched)
        self._num_with_gradient = torch.zeros(num_tensors, dtype=torch.int64, device=device)
        self._num_steps = 0
        self._acted: dict[str, list[Tensor]] = {}
        self._num_acted: dict[str, Tensor] = {}
        for part in self.parts:
            module = part.module
            if module is None or part.weights or not part.is_layer:
                continue
            self._num_acted[part.name] = torch.zeros((), dtype=torch.int64, device=device)
            note = self._note_of(part.name)
            module.register_forward_hook(note)

        # A projection that starts as the identity holds what is added to it; its length is that of both.
        self._identity_squares: dict[str, float] = {}
        if model.architecture.projection_init == "identity":
            width = model.architecture.retrieval_width
            self._identity_squares = dict.fromkeys(PROJECTIONS, float(width))

    def _note_of(self, name: str) -> Any:
        """A hook that notes, while training, whether a layer without weights changes what it is given."""
        noted = self._acted[name] = []

        def note(module: nn.Module, given: tuple[Any, ...], found: Any) -> None:
            first = given[0] if given else None
            if not module.training or not isinstance(first, Tensor) or not isinstance(found, Tensor):
                return
            if first.shape != found.shape:
                noted.append(self._zero == 0)
                return
            differs = _sampled(first) != _sampled(found)
            noted.append(differs.any())

        return note

    def after_step(self) -> None:
        """Count a step, after its backward pass and before gradients are dropped."""
        self._num_steps += 1
        gradients = []
        for weight, step in zip(self._weights, self._steps, strict=True):
            if weight.grad is not None:
                flat = weight.grad.reshape(-1)
                gradients.append(flat if step == 1 else flat[::step])
        if gradients:
            # The sum of absolute values of each; a tensor without a gradient counts as zeros.
            lengths = list(torch._foreach_norm(gradients, 1))
            if len(lengths) < len(self._weights):
                found = iter(lengths)
                lengths = [self._zero if weight.grad is None else next(found) for weight in self._weights]
            self._num_with_gradient += torch.stack(lengths) != 0
        for name, noted in self._acted.items():
            if noted:
                self._num_acted[name] += torch.stack(noted).any()
                noted.clear()

    def epoch_record(self) -> Record:
        """What the steps since the last call say of each part, for the epoch's record.

        `parts/NAME/gradient_share`: the share of steps in which its weights got a gradient that is not zero, of the
        tensor that got most; `parts/NAME/change`: ‖w − w₀‖ / ‖w₀‖ of all its weights, null where it started from zeros;
        `parts/NAME/acted_share`: of a layer without weights, the share of steps in which it changed a value.
        """
        counts = dict(zip(self._names, self._num_with_gradient.tolist(), strict=True))
        changes = self._changes()
        record: Record = {}
        for part in self.parts:
            key = f"parts/{part.name}"
            if part.weights:
                most = max(counts[name] for name in part.weights if name in counts)
                record[f"{key}/gradient_share"] = most / self._num_steps
                record[f"{key}/change"] = changes[part.name]
            elif part.name in self._num_acted:
                record[f"{key}/acted_share"] = self._num_acted[part.name].item() / self._num_steps
                self._num_acted[part.name].zero_()
        self._num_with_gradient.zero_()
        self._num_steps = 0
        return record

    @torch.no_grad()
    def _changes(self) -> dict[str, float | None]:
        """By part, how far its weights have moved, relative to their start; None where that was zero."""
        # Of each tensor the squared lengths of what was added and of the start, in one copy to the host.
        owners = []
        squares = []
        for part in self.parts:
            for name, weight in part.weights.items():
                before, now = self._start_and_now(name, weight)
                scale = weight.numel() / now.numel()
                added = (now - before).square().sum()
                length = before.square().sum()
                squares.append(scale * torch.stack([added, length]))
                owners.append(part.name)
        if not squares:
            return {}
        rows = torch.stack(squares).tolist()

        changes: dict[str, float | None] = {}
        for part in self.parts:
            added_square = 0.0
            start_square = self._identity_squares.get(part.name, 0.0)
            for owner, (added, length) in zip(owners, rows, strict=True):
                if owner == part.name:
                    added_square += added
                    start_square += length
            changes[part.name] = math.sqrt(added_square / start_square) if start_square > 0 else None
        return changes

    def _start_and_now(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A weight before training and as it is, flat; of an encoder's the values that were kept."""
        whole = self.start.get(name)
        if whole is None:
            return self._encoder_start[name], _sampled(weight, LOOKED_AT)
        return whole.reshape(-1), weight.detach().reshape(-1)

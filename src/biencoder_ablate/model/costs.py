"""What a model costs to use, counted and not timed: operations of its head a pair, bytes of its index a text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from biencoder_ablate.model.biencoder import FUSION_PARTS, BiEncoder
from biencoder_ablate.model.parts import Part

_PER_VALUE = {"native_layer_norm": 7, "_fused_rms_norm": 4}
"""Operations a value of norms that are one kernel.

Mean, difference, square, sum of squares, scale, gain and shift; without mean and shift four.
"""
_NO_ARITHMETIC = {"cat", "stack", "copy_", "clone", "_to_copy", "zeros", "ones", "empty", "full", "lift_fresh"}


class _Operations(TorchDispatchMode):
    """Adds up operations: of a matrix product two for each product of two numbers, as torch counts them; of anything
    else one for each value that it reads or writes, whichever are more."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        packet = func.overloadpacket
        name = packet.__name__
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=found)
        elif not func.is_view and name not in _NO_ARITHMETIC:
            leaves = tree_leaves((args, kwargs, found))
            sizes = [leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)]
            self.total += _PER_VALUE.get(name, 1) * max(sizes, default=0)
        return found


def operations_a_pair(model: BiEncoder, parts: list[Part]) -> dict[str, int]:
    """Operations of stage 2 for one pair of embedded texts: `total`, and of each layer of the head, by name.

    Of the head's own forward over the features, and these; the fast way of scoring (evaluation/pair_scores.py) needs
    fewer.
    """
    model.eval()
    shape = model.architecture
    weight = next(model.parameters(), torch.empty(0))
    h = weight.new_ones(1, shape.pooled_dim)
    r = weight.new_ones(1, shape.retrieval_width)
    found: Counter[str] = Counter()
    before: dict[str, int] = {}
    handles = []
    with torch.no_grad(), _Operations() as operations:
        for part in parts:
            if not part.is_layer or part.module is None:
                continue

            def begin(*_: Any, name: str = part.name) -> None:
                before[name] = operations.total

            def end(*_: Any, name: str = part.name) -> None:
                found[name] += operations.total - before[name]

            handles.append(part.module.register_forward_pre_hook(begin))
            handles.append(part.module.register_forward_hook(end))
        try:
            model.pair_score(model.logits(h, r, h, r), r, r)
        finally:
            for handle in handles:
                handle.remove()
    return {"total": operations.total, **found}


def bytes_a_text(model: BiEncoder, reranks: bool) -> int:
    """Bytes that an index keeps of a candidate, in float32: r for stage 1, and h where the head looks at it.

    Where r is h as it comes from the encoder, it is kept once.
    """
    shape = model.architecture
    needs_h = reranks and "h" in FUSION_PARTS[shape.fusion]
    is_h = isinstance(model.linear1, torch.nn.Identity) and shape.similarity != "cosine"
    width = shape.retrieval_width
    if needs_h and not is_h:
        width += shape.pooled_dim
    return 4 * width

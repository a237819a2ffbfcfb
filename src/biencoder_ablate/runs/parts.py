"""What the record of a part in result.json amounts to: whether it was trained, and whether it does anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_untrained(part: Mapping[str, Any]) -> str:
    """Why a part of a result counts as untrained, as a sentence goes on; nothing for one that was trained."""
    if part.get("gradient_share") == 0:
        return "never got a gradient"
    if part.get("gradient_share") and part.get("change") == 0:
        return "got gradients, and its weights have not moved"
    return ""


def changes_no_ranking(part: Mapping[str, Any]) -> bool:
    """Whether a part of a result was bypassed, and no ranking of val and test changed."""
    splits = [split for split in (part.get("bypassed") or {}).values() if isinstance(split, Mapping)]
    num_points = sum(split["num_points"] for split in splits)
    return num_points > 0 and not any(split["num_changed"] for split in splits)

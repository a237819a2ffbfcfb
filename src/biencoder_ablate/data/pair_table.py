"""From the rows of a table to a corpus: their groups, splits and names. For data=pairs and data=hub alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.corpus import SPLITS, Corpus, DataError, Pair, build_corpus, text_key
from biencoder_ablate.data.pair_columns import Columns
from biencoder_ablate.data.splitting import SPLIT_WORDS, Group, draw_splits
from biencoder_ablate.data.tabular import cell_text
from biencoder_ablate.utils.console import excerpt, printable


@dataclass(frozen=True)
class Row:
    """A text that asks, its right answers of one grade, and texts that are no answer to it.

    `where` is its place for messages and `number` for names. `split` is None where no column says it. `group` is what
    it belongs to, "" for nothing but its point; `id` its own name, "" for none.
    """

    where: str
    number: int
    point: str
    counters: Sequence[str]
    negatives: Sequence[str] = ()
    grade: int = 1
    split: str | None = None
    theme: str = ""
    group: str = ""
    stance: str = ""
    id: str = ""


def read_label(where: str, column: str, value: object) -> str:
    """What a cell of a column of groups, splits or names says; numbers are names like others, nan and null are none.

    Raises DataError for anything else.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, int | float):
        return str(value)
    return cell_text(where, column, value)


def parse_split(where: str, column: str, value: object) -> str:
    """The split that a cell names. Raises DataError where it names none."""
    word = read_label(where, column, value)
    if not word:
        raise DataError(f"{where}: no {column}, though other rows have one; give all or none")
    split = SPLIT_WORDS.get(word.lower())
    if split is None:
        raise DataError(f"{where}: {column}={excerpt(word)}; must be train, val or test")
    return split


def build_from_rows(
    name: str, settings: DataConfig, columns: Columns, rows: Sequence[Row], notes: Iterable[str]
) -> Corpus:
    """The corpus of the rows. A row's debate is its group, or else its distinct point, called after its first row.

    Val and test, where there are none, are cut from train: whole groups, by data.split_seed, or by data.folds. Raises
    DataError: no row in train, too few groups, or two rows of one name that ask different texts.
    """
    keys = {row.point: text_key(row.point) for row in rows}
    first_number: dict[str, int] = {}
    debates = []
    for row in rows:
        first = first_number.setdefault(keys[row.point], row.number)
        debates.append(row.group or f"row{first:06d}")

    # Debates that a column `debate` names are told apart by their themes as well; other groups are not.
    by_theme = columns.group is not None and settings.group is None
    groups = [(row.theme if by_theme and row.group else "", debate) for row, debate in zip(rows, debates, strict=True)]
    splits, drawn = _assign_splits(settings, columns, rows, groups)

    pairs, ids = _make_pairs(rows, debates, splits)
    if columns.id is not None:
        pairs = _give_names(pairs, ids, keys, settings)

    # A point counts as incomplete under its first row's theme.
    theme_of: dict[tuple[str, str], str] = {}  # by split and point
    for split, row in zip(splits, rows, strict=True):
        theme_of.setdefault((split, keys[row.point]), row.theme)
    answered = {(pair.split, keys[pair.point]) for pair in pairs if pair.grade > 0}
    incomplete = Counter((point[0], theme) for point, theme in theme_of.items() if point not in answered)
    corpus = build_corpus(name, pairs, incomplete, candidates="answers")
    return replace(corpus, notes=(*notes, *_group_notes(settings, columns, rows), *drawn))


def _assign_splits(
    settings: DataConfig, columns: Columns, rows: Sequence[Row], groups: Sequence[Group]
) -> tuple[list[str], list[str]]:
    """The split of each row, and a note of what was drawn."""
    where = f"data.path={settings.path}"
    splits = [row.split or "train" for row in rows]
    if settings.folds is not None and any(row.split for row in rows):
        raise DataError(
            f"data.folds={settings.folds}: {where} says itself what is train, val and test; must be null, or the "
            "data without splits"
        )
    missing = [split for split in SPLITS if split not in splits]
    if "train" in missing:
        raise DataError(f"{where}: no split train, or no row in it")
    if not missing:
        return splits, []

    in_train = [group for split, group in zip(splits, groups, strict=True) if split == "train"]
    drawn = draw_splits(in_train, settings)
    for place, (split, group) in enumerate(zip(splits, groups, strict=True)):
        if split == "train" and drawn[group] in missing:
            splits[place] = drawn[group]

    # What was drawn, in numbers of what was kept together.
    sizes = Counter(split for split, _ in set(zip(splits, groups, strict=True)))
    counts = ", ".join(f"{split} {sizes[split]}" for split in SPLITS)
    kind = "points" if columns.group is None else f"groups by {printable(columns.group)}"
    if settings.folds is not None:
        how = f"fold {settings.fold} of data.folds={settings.folds} is test, the next is val; dealt"
    else:
        how = f"{' and '.join(missing)} cut from train"
    return splits, [f"{how} by data.split_seed={settings.split_seed}, whole {kind}: {counts}"]


def _make_pairs(
    rows: Sequence[Row], debates: Sequence[str], splits: Sequence[str]
) -> tuple[list[Pair], list[tuple[str, str]]]:
    """A pair for each text that a row ranks, and for each pair where its row is and that row's id.

    Where a row may be several pairs, pairs are numbered through all rows, since each needs a number of its own.
    """
    numbers_run = any(len(row.counters) + len(row.negatives) > 1 for row in rows)
    pairs: list[Pair] = []
    ids = []
    next_number = 0
    for row, debate, split in zip(rows, debates, splits, strict=True):
        graded = [(row.grade, text) for text in row.counters] + [(0, text) for text in row.negatives]
        number = next_number if numbers_run else row.number
        for place, (grade, text) in enumerate(graded):
            pairs.append(Pair(split, row.theme, debate, row.stance, number + place, row.point, text, grade))
            ids.append((row.where, row.id))
        next_number += max(1, len(graded))
    return pairs, ids


def _give_names(
    pairs: Sequence[Pair], ids: Sequence[tuple[str, str]], keys: dict[str, str], settings: DataConfig
) -> list[Pair]:
    """The pairs with the names that data.id gives: the id for the first right answer, …/2 for the next text, and so on.

    The first right answer in candidate order is the one that a query is called by.
    """
    asked: dict[str, tuple[str, str]] = {}  # id → the point's key, and where it was first
    by_id: dict[tuple[str, str], list[Pair]] = {}
    for pair, (where, id) in zip(pairs, ids, strict=True):
        if not id:
            raise DataError(f"{where}: no {settings.id} (data.id); every row needs one")
        key, first = asked.setdefault(id, (keys[pair.point], where))
        if key != keys[pair.point]:
            other = first.removeprefix(f"data.path={settings.path}, ")
            raise DataError(f"{where}: {settings.id}={printable(id)} (data.id) names the point of {other} as well")
        by_id.setdefault((pair.split, id), []).append(pair)

    named = []
    for (_, id), alike in by_id.items():
        alike.sort(key=lambda pair: (pair.grade == 0, pair.order))
        named += [replace(pair, name=f"{id}/{place}" if place > 1 else id) for place, pair in enumerate(alike, 1)]
    return named


def _group_notes(settings: DataConfig, columns: Columns, rows: Sequence[Row]) -> list[str]:
    """What the groups are, where a key names them."""
    if settings.group is None:
        return []
    num_groups = len({row.group for row in rows if row.group})
    num_without = sum(not row.group for row in rows)
    without = f"; {num_without} rows without one are grouped by their point" if num_without else ""
    return [f"grouped by {printable(str(columns.group))}: {num_groups} groups{without}"]

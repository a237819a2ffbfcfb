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
    is_nan = value != value
    if value is None or is_nan:
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
    groups = []
    for row, debate in zip(rows, debates, strict=True):
        theme = row.theme if by_theme and row.group else ""
        groups.append((theme, debate))
    splits, drawn = _assign_splits(settings, columns, rows, groups)

    pairs, ids = _make_pairs(rows, debates, splits)
    if columns.id is not None:
        pairs = _give_names(pairs, ids, keys, settings)
    incomplete = _count_unanswered(rows, splits, keys, pairs)
    corpus = build_corpus(name, pairs, incomplete, candidates="answers")
    group_notes = _group_notes(settings, columns, rows)
    return replace(corpus, notes=(*notes, *group_notes, *drawn))


def _count_unanswered(
    rows: Sequence[Row], splits: Sequence[str], keys: dict[str, str], pairs: Sequence[Pair]
) -> Counter[tuple[str, str]]:
    """By split and theme, how many points have no right answer; a point counts under its first row's theme."""
    answered = set()
    for pair in pairs:
        if pair.grade > 0:
            answered.add((pair.split, keys[pair.point]))

    counted = set()
    counts: Counter[tuple[str, str]] = Counter()
    for split, row in zip(splits, rows, strict=True):
        point = (split, keys[row.point])
        if point in answered or point in counted:
            continue
        counted.add(point)
        counts[split, row.theme] += 1
    return counts


def _assign_splits(
    settings: DataConfig, columns: Columns, rows: Sequence[Row], groups: Sequence[Group]
) -> tuple[list[str], list[str]]:
    """The split of each row, and a note of what was drawn."""
    where = f"data.path={settings.path}"
    splits = [row.split or "train" for row in rows]
    has_splits = any(row.split for row in rows)
    if settings.folds is not None and has_splits:
        raise DataError(
            f"data.folds={settings.folds}: {where} says itself what is train, val and test; must be null, or the "
            "data without splits"
        )
    missing = [split for split in SPLITS if split not in splits]
    if "train" in missing:
        raise DataError(f"{where}: no split train, or no row in it")
    if not missing:
        return splits, []

    in_train = []
    for split, group in zip(splits, groups, strict=True):
        if split == "train":
            in_train.append(group)
    drawn = draw_splits(in_train, settings)
    # A split that the rows have themselves gets nothing more.
    for place, group in enumerate(groups):
        if splits[place] == "train" and drawn[group] in missing:
            splits[place] = drawn[group]

    # What was drawn, in numbers of what was kept together.
    kept_together = set(zip(splits, groups, strict=True))
    sizes = Counter(split for split, _ in kept_together)
    counts = ", ".join(f"{split} {sizes[split]}" for split in SPLITS)
    kind = "points" if columns.group is None else f"groups by {printable(columns.group)}"
    if settings.folds is not None:
        how = f"fold {settings.fold} of data.folds={settings.folds} is test, the next is val; dealt"
    else:
        how = f"{' and '.join(missing)} cut from train"
    note = f"{how} by data.split_seed={settings.split_seed}, whole {kind}: {counts}"
    return splits, [note]


def _make_pairs(
    rows: Sequence[Row], debates: Sequence[str], splits: Sequence[str]
) -> tuple[list[Pair], list[tuple[str, str]]]:
    """A pair for each text that a row ranks, and for each pair where its row is and that row's id.

    Where a row may be several pairs, pairs are numbered through all rows, since each needs a number of its own.
    """
    texts_of_rows = []
    for row in rows:
        right = [(row.grade, text) for text in row.counters]
        wrong = [(0, text) for text in row.negatives]
        texts_of_rows.append(right + wrong)
    numbers_run = any(len(texts) > 1 for texts in texts_of_rows)

    pairs: list[Pair] = []
    ids = []
    next_number = 0
    for row, debate, split, texts in zip(rows, debates, splits, texts_of_rows, strict=True):
        number = next_number if numbers_run else row.number
        for grade, text in texts:
            pair = Pair(split, row.theme, debate, row.stance, number, row.point, text, grade)
            pairs.append(pair)
            ids.append((row.where, row.id))
            number += 1
        # A row of no text takes a number as well.
        next_number += max(1, len(texts))
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
        key = keys[pair.point]
        first_key, first = asked.setdefault(id, (key, where))
        if first_key != key:
            other = first.removeprefix(f"data.path={settings.path}, ")
            raise DataError(f"{where}: {settings.id}={printable(id)} (data.id) names the point of {other} as well")
        alike = by_id.setdefault((pair.split, id), [])
        alike.append(pair)

    named = []
    for (_, id), alike in by_id.items():
        alike.sort(key=lambda pair: (pair.grade == 0, pair.order))
        for place, pair in enumerate(alike, start=1):
            name = id if place == 1 else f"{id}/{place}"
            named.append(replace(pair, name=name))
    return named


def _group_notes(settings: DataConfig, columns: Columns, rows: Sequence[Row]) -> list[str]:
    """What the groups are, where a key names them."""
    if settings.group is None:
        return []
    groups = [row.group for row in rows if row.group]
    num_groups = len(set(groups))
    note = f"grouped by {printable(str(columns.group))}: {num_groups} groups"
    num_without = len(rows) - len(groups)
    if num_without:
        note += f"; {num_without} rows without one are grouped by their point"
    return [note]

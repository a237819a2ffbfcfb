# ruff: noqa: B023 - what is defined in a loop is called in it
"""Command lines, damaged: composed and checked, or refused in one good line that names what was typed."""

from __future__ import annotations

import argparse
from random import Random

from support.damage import WORDS, cases, keeps_the_law

from biencoder_ablate.config.compose import compose_command, load_config, parse_arguments
from biencoder_ablate.config.schema import Config, schema_keys

WHOLE = ("head=layernorm", "neg_ratio=0.1", "seed=3", "model=tiny", "training.epochs=0", "data=sample",
         "evaluation.rerank=all", "model.point_prompt=null", "loss=study", "negatives=curriculum", "recipe=study",
         "+head.options.width=3", "data.split_seed=${seed}", "cache_dir=/tmp/a b",
         "training.freeze_encoder=true")  # fmt: skip
PIECES = ("=", "+", "++", "~", ",", "[", "]", "{", "}", "(", ")", "'", '"', "\\", "$", "${", "${seed}", "${a.b}", "@",
          ":", ".", "..", "range(1,3)", "range(0,1e9)", "choice(a,b)", "glob(*)", "glob(nothing*)", "interval(0,1)",
          "int(1.5)",
          "shuffle(1)", "sort(2,1)", "extend_list(1)", "hydra.", "hydra/", "hydra.mode=MULTIRUN", "hydra.verbose=true",
          "a=b=c", " ", "\t", "-", "--", "#", "%", "é", "\u65e5\u672c",
          *(word for word in WORDS if len(word) < 600))  # fmt: skip


def typed(some: Random) -> list[str]:
    """Overrides of which one or more have a piece put in, cut off, or exchanged."""
    overrides = some.sample(WHOLE, some.randrange(1, 4))
    for _ in range(some.choice((1, 1, 2, 3))):
        place = some.randrange(len(overrides))
        line = overrides[place]
        where = some.randrange(len(line) + 1)
        piece = some.choice(PIECES)
        kind = some.randrange(5)
        if kind == 0:
            line = line[:where] + piece + line[where:]
        elif kind == 1:
            line = line[:where]
        elif kind == 2:
            line = line.partition("=")[0] + "=" + piece
        elif kind == 3:
            line = piece + line
        else:
            line = f"{some.choice(list(dict(schema_keys())))}={piece}"
        overrides[place] = line
    return overrides


def test_overrides_are_composed_or_refused():
    num_composed = 0
    for some in cases("overrides", 40):
        overrides = typed(some)
        parts = {part for line in overrides for part in (line, line.lstrip("+~").partition("=")[0])}
        named = [ascii(part)[1:-1] for part in parts] + [part for part in parts if part] + ["must be", "key"]
        config = keeps_the_law(lambda: load_config(overrides), named, lambda: overrides)
        assert config is None or isinstance(config, Config)
        num_composed += config is not None
    assert num_composed > 0


def test_sweeps_are_listed_or_refused():
    def jobs(overrides: list[str]) -> list[list[str]]:
        with compose_command(argparse.Namespace(**vars(parse_arguments(["-m", *overrides])))) as command:
            listed = command.jobs()
            command.configs(listed[:3])
            return listed

    for some in cases("sweeps", 25):
        overrides = typed(some)
        named = ["=", "key", *overrides]
        keeps_the_law(lambda: jobs(overrides), named, lambda: overrides)

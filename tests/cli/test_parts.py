"""Taking a preset apart: which keys are its parts, which move together, and which configurations are run."""

from __future__ import annotations

import pytest
from support.helpers import run_here

from biencoder_ablate.cli.parts import describe_parts, expand, take_apart
from biencoder_ablate.config.compose import compose_command, parse_arguments, to_config
from biencoder_ablate.config.schema import ConfigError, PartsConfig

TINY = ["-m", "model=tiny", "data.limit=1", "training.freeze_encoder=true", "training.epochs=0"]
STEPS = "training.batch_size=32 training.schedule=linear"
OTHERS = "training.batch_size=8 training.schedule=constant"


@pytest.fixture(scope="module")
def command():
    with compose_command(parse_arguments([*TINY, "seed=0,1"])) as composed:
        yield composed


def expanded(command, name, whole=STEPS, bare=OTHERS, jobs=(("seed=0",), ("seed=1",))):
    jobs, design = expand(command, PartsConfig(name, whole, bare), [list(job) for job in jobs])
    return [" ".join(job) for job in jobs], design


def test_the_keys_in_which_two_presets_differ_are_the_parts(command):
    _, design = expanded(command, "out")
    assert [part.keys for part in design.parts] == [("training.batch_size",), ("training.schedule",)]
    assert design.parts[0].put_in == ("training.batch_size=32",)
    assert design.parts[0].take_out == ("training.batch_size=8",)
    lines = describe_parts(design, "out")
    assert lines[1] == "  batch_size: training.batch_size=32 with it, training.batch_size=8 without"


def test_each_part_is_taken_out_of_the_whole_or_added_to_the_bare_preset(command):
    out, _ = expanded(command, "out")
    assert out == [
        f"{STEPS} seed=0",
        f"{STEPS} seed=1",
        "training.batch_size=8 training.schedule=linear seed=0",
        "training.batch_size=8 training.schedule=linear seed=1",
        "training.batch_size=32 training.schedule=constant seed=0",
        "training.batch_size=32 training.schedule=constant seed=1",
    ]
    put_in, _ = expanded(command, "in", jobs=[["seed=0"]])
    assert put_in == [
        f"{OTHERS} seed=0",
        "training.batch_size=32 training.schedule=constant seed=0",
        "training.batch_size=8 training.schedule=linear seed=0",
    ]
    both, _ = expanded(command, "both")
    assert len(both) == 2 * 4, "without the one part is with the other"
    pairs, _ = expanded(command, "pairs", jobs=[["seed=0"]])
    assert pairs[-1] == f"{OTHERS} seed=0"
    assert len(pairs) == 1 + 2 + 1


def test_the_configurations_have_the_values_that_their_overrides_say(command):
    jobs, _ = expanded(command, "out", jobs=[["seed=0"]])
    configs = command.configs([job.split() for job in jobs])
    assert [(config.training.batch_size, config.training.schedule) for config in configs] == [
        (32, "linear"), (8, "linear"), (32, "constant"),
    ]  # fmt: skip


def test_keys_that_contradict_each_other_alone_move_together(command):
    design = take_apart(command, ["recipe=contrastive"], ["recipe=study"], ["seed=0"])
    keys = [set(part.keys) for part in design.parts]
    assert {"training.optimizer", "training.weight_decay"} in keys
    assert {"loss", "evaluation.score"} in keys
    assert any(
        "optimizer and weight_decay move together, since alone training.weight_decay=0.01" in note
        for note in design.notes
    )
    # Every part can be taken out and put in: no configuration is refused.
    for name in ("out", "in"):
        jobs, _ = expanded(command, name, "contrastive", "study", [["seed=0"]])
        assert len(command.configs([job.split() for job in jobs])) == 1 + len(design.parts)
    # All parts together are the other preset.
    every = [item for part in design.parts for item in part.take_out]
    whole, bare = command.configs([["recipe=contrastive", *every], ["recipe=study"]])
    assert whole == bare


def test_a_head_of_another_kind_is_one_part_with_its_settings(command):
    bare = "head=bilinear"
    design = take_apart(command, ["head=layernorm_relu"], [bare], ["seed=0"])
    assert [part.keys for part in design.parts] == [("head",)]
    whole, put_in = command.configs([["head=layernorm_relu"], [*design.parts[0].put_in]])
    assert whole.head == put_in.head
    (taken_out,) = command.configs([[*design.parts[0].take_out]])
    assert taken_out.head.name == "bilinear"


def test_a_group_that_is_taken_out_takes_what_the_preset_gave_it_along(command):
    whole = "loss=contrastive loss.temperature=0.1 evaluation.score=sum"
    bare = "loss=study evaluation.score=head"
    jobs, _ = expanded(command, "out", whole, bare, [["recipe=contrastive", "seed=0"]])
    assert "loss.temperature=0.1" in jobs[0] and "loss.temperature" not in jobs[1]
    (taken_out, bare) = command.configs([jobs[1].split(), ["loss=study", "evaluation.score=head"]])
    assert taken_out.loss == bare.loss


@pytest.mark.parametrize(
    ("whole", "bare", "message"),
    [
        ("nothing", OTHERS, "parts.whole=nothing: is no preset; must be contrastive, study, "),
        (STEPS, STEPS, "do not differ in any key that names a run"),
        ("seed=3", "seed=4", "parts: seed is given beside a preset that sets it"),
    ],
)
def test_presets_that_cannot_be_held_against_each_other_are_refused(command, whole, bare, message):
    with pytest.raises(ConfigError, match=message):
        expanded(command, "out", whole, bare)


def test_a_sweep_lists_its_parts_and_runs_each_configuration_once(tmp_path):
    options = [*TINY, "model.max_tokens=16", "parts=both", f'parts.whole="{STEPS}"', f'parts.bare="{OTHERS}"', "seed=0"]
    asked = run_here([*options, "plan=true"], tmp_path)
    assert "parts=both: 2 parts set" in asked.stdout and "4 to run" in asked.stdout, asked.stdout + asked.stderr
    ended = run_here(options, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len([path for path in (tmp_path / "logs" / "runs").iterdir() if not path.name.startswith(".")]) == 4

    alone = run_here([item for item in options if item != "-m"], tmp_path)
    assert "parts=both: is for a sweep" in alone.stderr
    with compose_command(parse_arguments(options)) as composed:
        assert to_config(composed.base).parts.name == "both"

"""scripts/findings.py: what is kept of a sweep is what its runs said, and names no place on the machine."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import findings
from support.report_runs import made_up_points, write_study


def make_sweep(logs: Path) -> Path:
    """Two heads with three seeds, on a corpus that was somewhere."""
    runs = write_study(logs / "runs", {"none": 0.4, "relu": 0.6}, range(3), points=made_up_points(12))
    jobs = [
        {
            "overrides": [f"head={path.name.partition('_')[0]}", "data.path=/a/place.zip"],
            "name": path.name,
            "directory": f"../../runs/{path.name}",
        }
        for path in runs
    ]
    for path in runs:
        result = json.loads((path / "result.json").read_text("utf-8"))
        result["baselines"] = {"pretrained": {"test": {"top1": 0.25, "top1_clean": 0.3}}}
        (path / "result.json").write_text(json.dumps(result), "utf-8")
    sweep = logs / "sweeps" / "heads"
    sweep.mkdir(parents=True)
    (sweep / "runs.json").write_text(json.dumps({"overrides": [], "jobs": jobs}), "utf-8")
    return sweep


def test_what_is_kept_outlives_the_runs_and_names_no_place(tmp_path):
    sweep, kept = make_sweep(tmp_path / "logs"), tmp_path / "kept"
    kept.mkdir()
    seen = findings.Sweeps(tmp_path / "logs", kept)
    told = [
        json.loads(path.read_text("utf-8"))["test"]["top1"]
        for path in sorted((tmp_path / "logs").glob("runs/none*/result.json"))
    ]
    assert sorted(seen.values("heads", "head=none", "top1")) == sorted(told) and len(told) == 3
    assert "/a/place" not in (kept / "heads.json").read_text("utf-8")
    sweep.rename(tmp_path / "gone")
    later = findings.Sweeps(None, kept)
    assert later.values("heads", "head=none", "top1") == seen.values("heads", "head=none", "top1")
    assert later.effect("heads", "none − relu", "estimate").startswith("−")
    assert later.pretrained("heads", "top1_clean") == "0.300"
    with pytest.raises(ValueError, match="the sweep ratios: neither in LOGS nor kept"):
        later.values("ratios", "", "top1")


def test_a_run_that_has_not_finished_keeps_a_sweep_from_being_kept(tmp_path):
    make_sweep(tmp_path / "logs")
    next((tmp_path / "logs" / "runs").glob("relu*")).joinpath("result.json").unlink()
    with pytest.raises(ValueError, match=r"result\.json: that run has not finished"):
        findings.digest(tmp_path / "logs", "heads")


def test_nothing_that_is_kept_names_a_place_and_the_pages_are_what_was_kept():
    for path in findings.KEPT.glob("*.json"):
        runs = json.loads(path.read_text("utf-8"))["runs"]
        assert not [told for run in runs for told in run["overrides"] if told.startswith(findings.PLACES)], path
    for name, page in findings.PAGES.items():
        assert page.read_text("utf-8") == findings.page(name, findings.Sweeps(None))

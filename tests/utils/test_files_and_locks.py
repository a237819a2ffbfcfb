"""Files that appear whole or not at all, and locks that a dead process does not hold."""

import fcntl
import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from support.helpers import files_below, run_here, run_python
from support.runs import finished_result

from biencoder_ablate.runs.directory import RunBusy, RunDirectory, forget_old, locked, start_over
from biencoder_ablate.utils.files import (
    read_json,
    replace_nonfinite,
    whole_directory,
    whole_file,
    write_json,
    write_text,
    yaml_string,
)

# --- whole files ---


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    with whole_file(path) as file:
        file.write("first line\n")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"first line\n"
    assert files_below(tmp_path) == {"file.txt"}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_was_there_stays_when_writing_fails(failure, tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(failure), whole_file(path, "wb") as file:
        file.write(b"half of the new")
        file.flush()
        raise failure
    assert path.read_bytes() == b"old"
    assert files_below(tmp_path) == {"file.bin"}, "a part is left lying about"


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path):
    """A limit on the size of files stands in for a full disk: writing fails half way, as there."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from biencoder_ablate.utils.files import whole_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with whole_file(Path('file.bin'), 'wb') as file:\n"
        "        file.write(b'x' * 100_000)\n"
        "except OSError:\n"
        "    sys.exit(7)\n"
    )
    (tmp_path / "file.bin").write_bytes(b"old")
    assert run_python(["-c", program], tmp_path).returncode == 7
    assert (tmp_path / "file.bin").read_bytes() == b"old"
    assert files_below(tmp_path) == {"file.bin"}


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path):
    program = (
        "import os, signal; from pathlib import Path; from biencoder_ablate.utils.files import whole_file\n"
        "with whole_file(Path('file.txt')) as file:\n"
        "    file.write('half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "file.txt").write_text("old")
    assert run_python(["-c", program], tmp_path).returncode == -signal.SIGKILL
    assert (tmp_path / "file.txt").read_text() == "old"


def test_whole_files_have_the_rights_of_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "whole", "")
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole")]
    assert rights[0] == rights[1]


def test_a_file_that_a_library_keeps_to_itself_is_in_a_whole_directory_like_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    (tmp_path / "plain directory").mkdir()
    with whole_directory(tmp_path / "whole") as partial:
        (partial / "below").mkdir()
        for file in (partial / "own", partial / "below" / "own"):
            file.write_text("")
            file.chmod(0o600)
    places = ("plain", "whole/own", "whole/below/own", "plain directory", "whole", "whole/below")
    rights = [stat.S_IMODE((tmp_path / place).stat().st_mode) for place in places]
    assert rights == [rights[0]] * 3 + [rights[3]] * 3


def test_all_files_of_a_run_have_the_rights_of_any_other_file(finished_run, tmp_path):
    (tmp_path / "plain").write_text("")
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    found = {name: stat.S_IMODE((finished_run.path / name).stat().st_mode) for name in files_below(finished_run.path)}
    assert "model/biencoder.safetensors" in found and "model/encoder/model.safetensors" in found
    assert set(found.values()) == {usual}, found


def test_text_is_utf8_with_unix_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "eins — zwei\n")
    assert (tmp_path / "a.txt").read_bytes() == "eins — zwei\n".encode()


def test_json_has_null_for_what_is_not_a_number(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": math.nan, "b": [1.5, math.inf, {"c": -math.inf}], "d": (True, "ö", None, 3)})
    assert "NaN" not in path.read_text() and "ö" in path.read_text("utf-8")
    assert json.loads(path.read_text("utf-8")) == {"a": None, "b": [1.5, None, {"c": None}], "d": [True, "ö", None, 3]}
    assert read_json(path) == json.loads(path.read_text("utf-8"))
    assert replace_nonfinite({"a": 1.0}) == {"a": 1.0}


def test_json_that_is_missing_or_damaged_reads_as_none(tmp_path):
    assert read_json(tmp_path / "missing.json") is None
    for content in (b"", b'{"a": ', b"\xff\xfe"):
        (tmp_path / "damaged.json").write_bytes(content)
        assert read_json(tmp_path / "damaged.json") is None


@given(st.text(st.characters(codec="utf-8")))
@example("data.path='/a b/c: d #e.csv'")
@example("x={a: [1, 'b'], c: \"d\"}")
@example("sweep_name=\x7f\x85\u2028\ufeff\U0001f600\n")
def test_any_override_is_a_yaml_string_and_a_json_string(text):
    assert yaml.safe_load(f"- {yaml_string(text)}\n") == [text]
    assert json.loads(yaml_string(text)) == text
    assert len(yaml_string(text).splitlines()) == 1


# --- locks ---

HOLD = (
    "import sys, time; from pathlib import Path; from biencoder_ablate.runs.directory import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(60)\n"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of runs/NAME."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "runs" / "NAME")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_process_is_told_who_works_there(holder, tmp_path):
    run = tmp_path / "runs" / "NAME"
    with pytest.raises(RunBusy) as busy, locked(run):
        pass
    assert str(run) in str(busy.value) and f"process {holder.pid} on " in str(busy.value)
    assert "\n" not in str(busy.value)
    with locked(tmp_path / "runs" / "OTHER"):
        pass


def test_who_only_looks_whether_a_run_is_free_stops_nobody_from_starting(tmp_path):
    """Looking takes a shared lock for an instant; here for longer than any look, twenty times over."""
    run = tmp_path / "run"
    lock = tmp_path / ".run.lock"
    for _ in range(20):
        with lock.open("w") as looking:
            fcntl.flock(looking, fcntl.LOCK_SH)
            timer = threading.Timer(0.05, looking.close)
            timer.start()
            with locked(run):
                pass
            timer.join()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_no_lock(holder, sent, tmp_path):
    holder.send_signal(sent)
    holder.wait()
    with locked(tmp_path / "runs" / "NAME"):
        pass
    assert files_below(tmp_path) == set(), "the lock's file stays behind"


def test_a_lock_is_free_again_when_its_work_ends_or_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="the work"), locked(tmp_path / "run"):
            with pytest.raises(RunBusy, match=f"process {os.getpid()} "), locked(tmp_path / "run"):
                pass
            raise ValueError("the work failed")
        assert files_below(tmp_path) == set()


def test_of_many_processes_one_works_at_a_time(tmp_path):
    """Each takes the lock as often as it can and marks its stay with a directory, which only one can make."""
    program = (
        "import contextlib, os, sys, time\n"
        "from pathlib import Path\n"
        "from biencoder_ablate.runs.directory import RunBusy, locked\n"
        "end, stays = time.monotonic() + 1.0, 0\n"
        "while time.monotonic() < end:\n"
        "    with contextlib.suppress(RunBusy), locked(Path('run')):\n"
        "        os.mkdir('inside'); os.rmdir('inside'); stays += 1\n"
        "print(stays)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(3)
    ]
    ended = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in ended] == [""] * 3
    assert all(int(stays) > 0 for stays, _ in ended)


def test_a_busy_run_is_refused_by_the_program_itself(finished_run, tmp_path):
    """The same command in another logs directory, whose run of that name this process holds."""
    run = tmp_path / "logs" / "runs" / finished_run.path.name
    with locked(run):
        ended = run_here(finished_run.arguments, tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ") and f"process {os.getpid()} " in line and finished_run.path.name in line
    assert not run.exists()


# --- a run that starts over ---


def made_run(tmp_path, status):
    run = RunDirectory(tmp_path / "runs" / "NAME")
    run.path.mkdir(parents=True)
    write_json(run.result, finished_result() if status == "finished" else {"status": status})
    (run.path / "top1.csv").write_text("epoch,train,val,test\n")
    return run


def test_a_finished_run_is_kept_aside_until_the_new_one_has_finished(tmp_path):
    run = made_run(tmp_path, "finished")
    start_over(run)
    assert not run.path.exists() and RunDirectory(run.aside).read_finished() == finished_result()
    run.path.mkdir()
    (run.path / "checkpoint").mkdir()
    start_over(run)
    assert run.checkpoint.exists(), "a rerun that was interrupted goes on"
    forget_old(run)
    assert not run.aside.exists() and run.path.exists()


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_an_unfinished_run_is_not_worth_keeping(status, tmp_path):
    run = made_run(tmp_path, status)
    start_over(run)
    assert not run.path.exists() and not run.aside.exists()


def test_starting_over_where_nothing_is(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "NAME")
    start_over(run)
    forget_old(run)
    assert read_json(run.result) is None

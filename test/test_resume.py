"""Kill and resume: a run that was killed and resumed gives bit-identical results to an
uninterrupted run.

All log lines except the first are compared (without timing fields), and the bytes of weights and
optimizer state; there is no tolerance. `kill -9` is sent to mpirun, its proxy and all ranks at
once.
"""
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from support import (checkpoint, checkpoints, checksums_hold, copied, descendants, fails, flip_bit, kill_all,
                     random_documents, read_log, run, stable_log, start, state_bytes, truncate, write_pair)


def same_end(found, expected, step):
    assert stable_log(found) == stable_log(expected)
    assert state_bytes(checkpoint(found, step)) == state_bytes(checkpoint(expected, step))


def kill_when(condition, args, **options):
    """kill -9 as soon as `condition()` holds. Returns False if the run ended before."""
    process = start(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    deadline = time.monotonic() + 60
    while not condition():
        if process.poll() is not None:
            assert process.returncode == 0
            return False
        assert time.monotonic() < deadline
        time.sleep(0.001)
    kill_all(process)
    return True


def logged(out, step):
    try:
        return re.search(rf'"step": ?{step},', (out / "log.jsonl").read_text())
    except FileNotFoundError:  # not yet, or just set aside by a run that starts over
        return None


def being_saved(out):
    """Names of the files of partial checkpoints, which do not have their final name yet."""
    if not out.exists():
        return []
    partial = [path for path in out.iterdir() if path.is_dir() and not re.fullmatch(r"step-\d+", path.name)]
    return [file.name for folder in partial for file in folder.glob("*")]


def changes(out, count):
    """A condition that holds after `count` changes to the file names in a folder or to the size of
    its log."""
    seen = []

    def condition():
        try:
            state = (out / "log.jsonl").stat().st_size, sorted(out.rglob("*"))
        except OSError:  # does not exist yet, or was removed while it was listed
            return False
        if state not in seen[-1:]:
            seen.append(state)
        return len(seen) > count
    return condition


# --------------------------------------------------------------------------------------------------
# kill -9

STEPS = 24


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def slow(tiny, tmp_path_factory, request):
    """A run with steps of a few milliseconds, so that kills can be timed: slow(out) returns its
    arguments, and slow.end(ranks) the folder of the uninterrupted run."""
    family = dict(family="llama", heads=4, kv_heads=2, tied=0) if request.param == "llama" else {}

    def make(out):
        return tiny(out, **family, channels=192, steps=STEPS, save_every=3, shuffle=1,
                    eval_every=6, val_data=tiny.data)
    ends = {}

    def end(ranks):
        if ranks not in ends:
            ends[ranks] = tmp_path_factory.mktemp("uninterrupted") / "run"
            run(make(ends[ranks]), ranks=ranks)
        return ends[ranks]
    make.end = end
    return make


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("step", [1, 5, 18])
def test_killed_at_step(slow, ranks, step, tmp_path):
    out = tmp_path / "run"
    assert kill_when(lambda: logged(out, step), slow(out), ranks=ranks)
    assert max(checkpoints(out), default=0) < STEPS
    run(slow(out), ranks=ranks)
    same_end(out, slow.end(ranks), STEPS)
    assert checkpoints(out) == list(range(3, STEPS + 1, 3))
    assert not being_saved(out)
    assert all(checksums_hold(checkpoint(out, step)) for step in checkpoints(out))


def test_one_rank_killed(slow, tmp_path):
    """When one rank is killed, the other rank and mpirun end too instead of hanging."""
    out = tmp_path / "run"
    process = start(slow(out), ranks=2, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not logged(out, 5):
        assert process.poll() is None
        time.sleep(0.001)
    ranks = [pid for pid in descendants(process.pid) if os.readlink(f"/proc/{pid}/exe").endswith("/train_gpt")]
    assert len(ranks) == 2
    os.kill(ranks[-1], signal.SIGKILL)
    try:
        assert process.wait(30) != 0
    finally:
        kill_all(process)
    run(slow(out), ranks=2)
    same_end(out, slow.end(2), STEPS)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "optimizer-00000.safetensors", "SHA256SUMS"])
def test_killed_while_saving(slow, ranks, file, tmp_path):
    """Killed while the third checkpoint is partial: a file of it exists, but the checkpoint does
    not have its final name yet."""
    out = tmp_path / "run"
    killed = kill_when(lambda: 6 in checkpoints(out) and file in being_saved(out), slow(out), ranks=ranks)
    run(slow(out), ranks=ranks)
    same_end(out, slow.end(ranks), STEPS)
    assert not being_saved(out)
    if killed:
        assert len((out / "restarts.jsonl").read_text().splitlines()) == 1


def test_killed_repeatedly(slow, tmp_path):
    """The run is killed after a random number of changes in its folder, until it finishes."""
    out, kills, source = tmp_path / "run", 0, random.Random(1)
    while kill_when(changes(out, source.randint(5, 20)), slow(out)):
        kills += 1
        assert all(checksums_hold(checkpoint(out, step)) for step in checkpoints(out))
    assert kills >= 3
    same_end(out, slow.end(1), STEPS)


# --------------------------------------------------------------------------------------------------
# --resume auto. `finished` has 8 steps with checkpoints 2, 4, 6 and 8; without the last two
# checkpoints it is a run that stopped after step 4.

@pytest.fixture
def stopped(finished, tmp_path):
    out = copied(finished, tmp_path / "run")
    shutil.rmtree(checkpoint(out, 6))
    shutil.rmtree(checkpoint(out, 8))
    return out


def test_resume(tiny, stopped, finished, build):
    run(tiny(stopped), build=build)
    assert checkpoints(stopped) == [2, 4, 6, 8]
    if build == "native":  # sanitizer builds round differently
        same_end(stopped, finished, 8)


def test_partial_log_line(tiny, stopped, finished):
    """A kill can leave a partial last line in the log."""
    log = stopped / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:6]) + lines[6][:20])
    run(tiny(stopped))
    same_end(stopped, finished, 8)


LOG_DAMAGE = {
    "first line": lambda log: flip_bit(log, 3),
    "a line": lambda log: flip_bit(log, log.read_bytes().index(b'{"step": 2')),
    "a digit": lambda log: flip_bit(log, log.read_bytes().index(b'"loss": 4') + 8),
    "truncated": lambda log: truncate(log, 100),
    "empty": lambda log: truncate(log, 0),
}


@pytest.mark.parametrize("damage", LOG_DAMAGE)
def test_damaged_log(tiny, stopped, finished, damage):
    """The run goes on, and saves, with what can be read of its log; the log as it was found is kept."""
    log, aside = stopped / "log.jsonl", stopped / "log-damaged-1.jsonl"
    LOG_DAMAGE[damage](log)
    found = log.read_bytes()
    result = run(tiny(stopped))
    assert f"warning: {log} was changed or damaged" in result.out and str(aside) in result.out, str(result)
    assert aside.read_bytes() == found
    assert state_bytes(checkpoint(stopped, 8)) == state_bytes(checkpoint(finished, 8))
    assert (checkpoint(stopped, 8) / "README.md").exists()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0]["program"] == "train_gpt" and [line["step"] for line in lines if "loss" in line][-4:] == [5, 6, 7, 8]
    run(tiny(stopped, steps=10))  # the log is sound again
    assert not (stopped / "log-damaged-2.jsonl").exists()


def test_finished_run_is_not_changed(tiny, finished, tmp_path):
    out = copied(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "restarts.jsonl"}
    run(tiny(out))
    assert before == {path: path.read_bytes() for path in out.rglob("*")
                      if path.is_file() and path.name != "restarts.jsonl"}


def test_keep(tiny, tmp_path):
    run(tiny(tmp_path / "run", keep=2))
    assert checkpoints(tmp_path / "run") == [6, 8]


def test_keep_does_not_count_broken_checkpoints(tiny, finished, tmp_path):
    """The latest is damaged, the run resumes from the one before, and stops earlier than the latest:
    what it saves must stay."""
    out = copied(finished, tmp_path / "run")
    flip_bit(checkpoint(out, 8) / "model.safetensors", 1000)
    run(tiny(out, keep=1, steps=9, save_every=7))
    assert checkpoints(out) == [9]
    out = copied(finished, tmp_path / "earlier")
    flip_bit(checkpoint(out, 8) / "model.safetensors", 1000)
    run(tiny(out, keep=1, steps=7))
    assert checkpoints(out) == [7, 8]
    run(tiny(out, keep=1, steps=8))
    assert checkpoints(out) == [8] and checksums_hold(checkpoint(out, 8))


def test_removes_only_what_it_made(tiny, tmp_path):
    """Links are not followed, and folders of others stay."""
    out, others = tmp_path / "run", tmp_path / "others"
    (others / "deep").mkdir(parents=True)
    (others / "deep/file").write_text("text")
    out.mkdir()
    for name in "step-000000", ".step-000003.old", ".step-000004.new":
        (out / name).symlink_to(others)
    (out / "step-000001").mkdir()
    (out / "step-000001/notes.txt").write_text("text")
    run(tiny(tmp_path / "made"))
    shutil.copytree(checkpoint(tmp_path / "made", 2), out / "step-000002")
    result = run(tiny(out, keep=1))
    assert checkpoints(out) == [0, 1, 8] and (out / "step-000001/notes.txt").exists()
    assert (others / "deep/file").read_text() == "text"
    assert f"warning: {out}/step-000001 is not removed: it is not a checkpoint" in result.out, str(result)


def test_save_every_zero(tiny, tmp_path):
    run(tiny(tmp_path / "run", save_every=0))
    assert checkpoints(tmp_path / "run") == []
    assert len(read_log(tmp_path / "run").steps) == 8


FILES = ["config.json", "model.safetensors", "trainer_state.json", "optimizer-00000.safetensors", "SHA256SUMS"]
DAMAGE = {
    "truncated": truncate,
    "empty": lambda path: truncate(path, 0),
    "flipped": lambda path: flip_bit(path, path.stat().st_size - 9),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_corrupt_latest_checkpoint(tiny, finished, file, damage, tmp_path):
    """A corrupt checkpoint is reported; the run resumes from the previous one, with the same
    result."""
    out = copied(finished, tmp_path / "run")
    DAMAGE[damage](checkpoint(out, 8) / file)
    result = run(tiny(out))
    assert any("step-000008" in line for line in (result.out + result.err).splitlines()), str(result)
    same_end(out, finished, 8)
    assert checksums_hold(checkpoint(out, 8))


def test_leftovers_of_killed_runs(tiny, finished, tmp_path):
    """A kill can leave partial checkpoints, or a corrupt one that was being replaced."""
    out = copied(finished, tmp_path / "run")
    flip_bit(checkpoint(out, 8) / "model.safetensors", 1000)
    for name in ".step-000008.old", ".step-000008.new", ".step-000006.new":
        copied(checkpoint(finished, 8), out / name)
    run(tiny(out))
    same_end(out, finished, 8)
    assert checkpoints(out) == [2, 4, 6, 8] and checksums_hold(checkpoint(out, 8))


@pytest.mark.parametrize("ranks", [1, 2])
def test_all_checkpoints_corrupt(tiny, finished, ranks, tmp_path):
    out = copied(finished, tmp_path / "run")
    for step in checkpoints(out):
        flip_bit(checkpoint(out, step) / "model.safetensors", 1000)
    log = (out / "log.jsonl").read_bytes()
    fails(tiny(out), 1, out, ranks=ranks)
    assert (out / "log.jsonl").read_bytes() == log
    assert checkpoints(out) == [2, 4, 6, 8]


def test_other_number_of_ranks(tiny, stopped, finished):
    run(tiny(stopped), ranks=2)
    assert np.allclose(read_log(stopped).column("loss"), read_log(finished).column("loss"), rtol=1e-6, atol=0)
    assert stable_log(stopped)[:4] == stable_log(finished)[:4]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("option, value", [("seed", 6), ("layers", 3), ("heads", 4), ("channels", 48), ("seq_len", 15),
                                           ("vocab_size", 98)])
def test_changed_option(tiny, stopped, option, value, ranks):
    """Resuming with a different model or data order is rejected."""
    log = (stopped / "log.jsonl").read_bytes()
    fails(tiny(stopped, **{option: value}), 1, "step-000004", ranks=ranks)
    assert checkpoints(stopped) == [2, 4] and (stopped / "log.jsonl").read_bytes() == log


def test_changed_settings(tiny, stopped):
    """What a resume changes is named; what makes another run of it needs --allow-change."""
    other = tiny(stopped, lr=0.5, clip=0, recompute="layer")
    fails(other, 1, "step-000004", "lr 0.003 -> 0.5, clip 1 -> 0", "--allow-change")
    assert checkpoints(stopped) == [2, 4]
    result = run([*other, "--allow-change"])
    assert re.search(r"changed since the checkpoint: .*lr 0.003 -> 0.5", result.out), str(result)
    assert "recompute none -> layer" in result.out
    assert checkpoints(stopped) == [2, 4, 6, 8]


def test_changed_global_batch(tiny, tmp_path):
    """Without --global-batch it depends on the number of ranks."""
    run(tiny(tmp_path / "run", global_batch=0, steps=4))
    fails(tiny(tmp_path / "run", global_batch=0), 1, "global_batch 2 -> 4", ranks=2)


def test_changed_data(tiny, stopped, tmp_path):
    """Data with the same number of tokens but different content is rejected."""
    other = write_pair(tmp_path / "other", random_documents(9, 3000, 90))
    fails(tiny(stopped, data=other), 1, "data")
    assert checkpoints(stopped) == [2, 4]


def test_resume_none(tiny, stopped):
    """--resume none starts a new run and never overwrites an existing one."""
    fails(tiny(stopped, resume="none"), 1, stopped)
    assert checkpoints(stopped) == [2, 4]


# --------------------------------------------------------------------------------------------------
# Learning rates

LR, MIN, WARMUP, TOTAL = 1e-3, 1e-4, 4, 30


def expected_lr(schedule, step):
    """Linear warm-up to LR at step WARMUP. Then "cosine" decays to MIN at the last step, "constant"
    stays at LR, and "wsd" (warm-up, stable, decay) decays linearly to MIN over the last 20 % of the
    steps."""
    if step <= WARMUP:
        return LR * step / WARMUP
    if schedule == "cosine":
        return MIN + (LR - MIN) * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP)))
    if schedule == "wsd":
        decay = TOTAL // 5
        return LR - (LR - MIN) * max(0, step - (TOTAL - decay)) / decay
    return LR


@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd"])
def test_schedule(tiny, schedule, tmp_path):
    run(tiny(tmp_path / "run", schedule=schedule, lr=LR, min_lr=MIN, warmup_steps=WARMUP, steps=TOTAL, save_every=0))
    expected = [expected_lr(schedule, step) for step in range(1, TOTAL + 1)]
    assert np.allclose(read_log(tmp_path / "run").column("lr"), expected, rtol=1e-6, atol=0)

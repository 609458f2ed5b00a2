"""Graceful stop: after a signal to any rank, or near --time-limit, a run finishes its step, saves a
checkpoint and exits with status 100. The same command then resumes, and the result is bit-identical
to an uninterrupted run.
"""
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support import (checkpoint, checkpoints, checksums_hold, descendants, fails, kill_all, read_log, run, stable_log,
                     start, state_bytes)

STEPS = 100000  # never reached
STOPPED = 100


@pytest.fixture(scope="module")
def slow(tiny):
    """A practically endless run with steps of a few milliseconds that saves only when it is
    stopped."""
    def make(out, **options):
        return tiny(out, **{"channels": 192, "seq_len": 64, "micro_batch": 2, "global_batch": 8, "steps": STEPS,
                            "schedule": "constant", "save_every": STEPS, "eval_every": 7, "val_data": tiny.data,
                            "eval_batches": 1, **options})
    return make


def resumes_exactly(slow, out, step, folder, **options):
    """Resumes for two more steps; the result must be bit-identical to an uninterrupted run."""
    uninterrupted = folder / "uninterrupted"
    run(slow(out, steps=step + 2), **options)
    run(slow(uninterrupted, steps=step + 2, save_every=step), **options)
    assert checkpoints(out) == checkpoints(uninterrupted) == [step, step + 2]
    assert stable_log(out) == stable_log(uninterrupted)
    for saved in (step, step + 2):
        assert state_bytes(checkpoint(out, saved)) == state_bytes(checkpoint(uninterrupted, saved))


def logged_steps(out):
    log = out / "log.jsonl"
    return len(re.findall(r'"loss": ?', log.read_text())) if log.exists() else 0


def ranks_of(process):
    """The process ids of the ranks, in no particular order."""
    found = []
    for pid in descendants(process.pid):
        try:
            if Path(f"/proc/{pid}/exe").resolve().name.startswith("train_gpt"):
                found.append(pid)
        except OSError:
            pass
    return found


def signalled(args, out, after, number, choose=lambda process: ranks_of(process)[-1], **options):
    """Sends a signal to the chosen process after `after` logged steps; returns the exit status and
    the output."""
    process = start(args, stderr=subprocess.STDOUT, **options)
    deadline = time.monotonic() + 100
    while logged_steps(out) < after:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0].decode()
        time.sleep(0.002)
    os.kill(choose(process), number)
    try:
        text = process.communicate(timeout=100)[0].decode()
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise AssertionError("the run did not stop after the signal")
    return process.returncode, text


def stopped_step(out, text):
    """The step at which the run stopped; it must be the last one logged and the only one saved."""
    step, = map(int, re.findall(rf"stops at step (\d+)/{STEPS}: ", text))
    assert checkpoints(out) == [step], text
    assert read_log(out).steps[-1]["step"] == step
    assert checksums_hold(checkpoint(out, step))
    return step


@pytest.mark.parametrize("ranks, number, build", [
    (1, signal.SIGTERM, "native"), (1, signal.SIGUSR1, "asan"), (2, signal.SIGUSR1, "native"),
    (2, signal.SIGTERM, "native"), (2, signal.SIGXCPU, "native")])
def test_signal(slow, tmp_path, ranks, number, build):
    """A signal to one rank stops all of them after the same step."""
    out = tmp_path / "run"
    status, text = signalled(slow(out), out, 3, number, ranks=ranks, build=build)
    assert status == STOPPED, text
    step = stopped_step(out, text)
    assert step >= 3 and "a signal was received" in text
    resumes_exactly(slow, out, step, tmp_path, ranks=ranks)


def test_signal_to_the_launcher(slow, tmp_path):
    """mpirun forwards SIGUSR1 to its ranks, as srun does. MPICH 4.0's mpirun then loses their exit
    status in about one of three runs and ends with 0 (it does so for
    `sh -c 'trap "" USR1; sleep 1; exit 100'` too), so the test relies on the output."""
    status, text = signalled(slow(tmp_path / "run"), tmp_path / "run", 3, signal.SIGUSR1, lambda mpirun: mpirun.pid,
                             ranks=2)
    assert status in (STOPPED, 0), text
    stopped_step(tmp_path / "run", text)


def test_signal_at_a_regular_checkpoint(slow, tmp_path):
    """If the stop coincides with a regular checkpoint, as always with --save-every 1, the step is
    saved only once."""
    args = slow(tmp_path / "run", save_every=1, keep=1, eval_every=0)
    status, text = signalled(args, tmp_path / "run", 3, signal.SIGUSR1)
    assert status == STOPPED
    step = stopped_step(tmp_path / "run", text)
    assert len(re.findall(rf"saved \S+/step-{step:06d}\n", text)) == 1, text


def test_without_checkpoints(slow, tmp_path):
    """With --save-every 0 there is nothing to save, so the signal ends the run immediately."""
    status, text = signalled(slow(tmp_path / "run", save_every=0), tmp_path / "run", 3, signal.SIGTERM)
    assert status == -signal.SIGTERM and checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_time_limit(slow, tmp_path, ranks):
    """The run saves and stops before its time limit; the same command resumes, and finishes if the
    limit is long enough."""
    out = tmp_path / "run"
    result = run([*slow(out), "--time-limit", 3], ranks=ranks, check=False)
    assert result.status == STOPPED, str(result)
    assert "the time limit is near" in result.out
    step = stopped_step(out, result.out)
    run([*slow(out, steps=step + 1), "--time-limit", 1000], ranks=ranks)
    assert checkpoints(out) == [step, step + 1]


def test_time_limit_too_short_for_a_step(slow, tmp_path):
    """Every job completes at least one step, so a chain of jobs always finishes."""
    args = [*slow(tmp_path / "run", steps=3, save_every=1, eval_every=0), "--time-limit", 1e-6]
    for step, status in [(1, STOPPED), (2, STOPPED), (3, 0)]:
        assert run(args, check=False).status == status
        assert checkpoints(tmp_path / "run")[-1] == step


def test_time_limit_needs_checkpoints(slow, tmp_path):
    fails([*slow(tmp_path / "run", save_every=0), "--time-limit", 10], 2, "--time-limit", "--save-every")
    fails([*slow(tmp_path / "run"), "--time-limit", -1], 2, "--time-limit")

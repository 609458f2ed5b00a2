"""Clean stop: a signal to any rank, or --time-limit, stops a run after a step with a checkpoint of that step and exit
status 100; the same command then resumes and leaves what an uninterrupted run leaves, bit for bit.
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
    """An endless run with steps of some milliseconds that saves nothing before it is stopped."""
    def make(out, **options):
        return tiny(out, **{"channels": 192, "seq_len": 64, "micro_batch": 2, "global_batch": 8, "steps": STEPS,
                            "schedule": "constant", "save_every": STEPS, "eval_every": 7, "val_data": tiny.data,
                            "eval_batches": 1, **options})
    return make


def goes_on(slow, out, step, folder, **options):
    """Two more steps after the stop: everything is as in a run that was never stopped, bit for bit."""
    run(slow(out, steps=step + 2), **options)
    run(slow(folder / "whole", steps=step + 2, save_every=step), **options)
    assert checkpoints(out) == checkpoints(folder / "whole") == [step, step + 2]
    assert stable_log(out) == stable_log(folder / "whole")
    for saved in (step, step + 2):
        assert state_bytes(checkpoint(out, saved)) == state_bytes(checkpoint(folder / "whole", saved))


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
    """Runs until `after` steps are logged, then sends the signal to the chosen process: the status and the output."""
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
        raise AssertionError("no end after the signal")
    return process.returncode, text


def stopped_step(out, text):
    """The step at which the run stopped: the last one logged, and the only one saved."""
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
    assert step >= 3 and "a signal asks for it" in text
    goes_on(slow, out, step, tmp_path, ranks=ranks)


def test_signal_to_the_launcher(slow, tmp_path):
    """mpirun forwards SIGUSR1 to its ranks, as srun does. After that, the mpirun of MPICH 4.0 loses their exit status
    one time in three (`sh -c 'trap "" USR1; sleep 1; exit 100'` as well) and ends with 0: what the ranks say counts."""
    status, text = signalled(slow(tmp_path / "run"), tmp_path / "run", 3, signal.SIGUSR1, lambda mpirun: mpirun.pid,
                             ranks=2)
    assert status in (STOPPED, 0), text
    stopped_step(tmp_path / "run", text)


def test_signal_at_a_regular_checkpoint(slow, tmp_path):
    """A step that is due to be saved is saved only once; with --save-every 1 every step is."""
    args = slow(tmp_path / "run", save_every=1, keep=1, eval_every=0)
    status, text = signalled(args, tmp_path / "run", 3, signal.SIGUSR1)
    assert status == STOPPED
    step = stopped_step(tmp_path / "run", text)
    assert len(re.findall(rf"saved \S+/step-{step:06d}\n", text)) == 1, text


def test_without_checkpoints(slow, tmp_path):
    """A run without checkpoints has nothing to save: the signal ends it like any program."""
    status, text = signalled(slow(tmp_path / "run", save_every=0), tmp_path / "run", 3, signal.SIGTERM)
    assert status == -signal.SIGTERM and checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_time_limit(slow, tmp_path, ranks):
    """The run saves and stops ahead of its limit; the same command resumes, and finishes if the limit is far off."""
    out = tmp_path / "run"
    result = run([*slow(out), "--time-limit", 3], ranks=ranks, check=False)
    assert result.status == STOPPED, str(result)
    assert "the time limit is near" in result.out
    step = stopped_step(out, result.out)
    run([*slow(out, steps=step + 1), "--time-limit", 1000], ranks=ranks)
    assert checkpoints(out) == [step, step + 1]


def test_time_limit_too_short_for_a_step(slow, tmp_path):
    """Every start makes at least one step, so a chain of jobs finishes."""
    args = [*slow(tmp_path / "run", steps=3, save_every=1, eval_every=0), "--time-limit", 1e-6]
    for step, status in [(1, STOPPED), (2, STOPPED), (3, 0)]:
        assert run(args, check=False).status == status
        assert checkpoints(tmp_path / "run")[-1] == step


def test_time_limit_needs_checkpoints(slow, tmp_path):
    fails([*slow(tmp_path / "run", save_every=0), "--time-limit", 10], 2, "--time-limit", "--save-every")
    fails([*slow(tmp_path / "run"), "--time-limit", -1], 2, "--time-limit")

"""The job scripts: slurm.sh under a real Slurm on this machine; the PJM scripts with stubs for
Fugaku's commands (mpiexec, pjsub, llio_transfer) and variables; the rank map by counting hops.
"""
import contextlib
import itertools
import json
import math
import os
import re
import shutil
import socket
import subprocess
import time

import pytest

from support import (BINARIES, ROOT, arguments, checkpoint, checkpoints, read_log, run, stable_log, state_bytes)

STOPPED = 100  # exit status of a run that stopped before its last step


def test_shellcheck():
    scripts = [*(ROOT / "scripts").glob("*.sh"), *(ROOT / "scripts").glob("*.pjm")]
    assert len(scripts) >= 3
    checked = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# --------------------------------------------------------------------------------------------------
# Slurm: the tests start their own munged, slurmctld and slurmd in a temporary folder, on free ports

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's commands reach a cluster of one node with two cores. Binding
    uses affinity masks, not cgroups, which some machines do not allow."""
    folder = tmp_path_factory.mktemp("slurm")
    os.chmod(folder, 0o755)
    host = socket.gethostname().split(".")[0]
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    cores = len(os.sched_getaffinity(0))
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    (folder / "munge/key").write_bytes(os.urandom(1024))
    os.chmod(folder / "munge/key", 0o400)
    (folder / "slurm.conf").write_text("\n".join([
        "ClusterName=test", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={free_port()}",
        f"SlurmdPort={free_port()}", f"SlurmUser={user}", f"SlurmdUser={user}", "AuthType=auth/munge",
        # shorten the wait before a requeued job may restart (default 120 s, minimum 5 s) and the
        # scheduling interval
        f"AuthInfo=socket={folder}/munge/socket,cred_expire=5", "SchedulerParameters=sched_interval=1,bf_interval=1",
        f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool",
        f"SlurmctldPidFile={folder}/slurmctld.pid", f"SlurmdPidFile={folder}/slurmd.pid",
        f"SlurmctldLogFile={folder}/slurmctld.log", f"SlurmdLogFile={folder}/slurmd.log",
        "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/affinity", "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none", "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core", "ReturnToService=2", "SlurmdParameters=config_overrides",
        f"NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} CoresPerSocket={cores} ThreadsPerCore=1",
        f"PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP", ""]))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = folder / "munge"
    daemons = []
    try:
        for daemon in (["munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket",
                        f"--pid-file={munge}/pid", f"--seed-file={munge}/seed"],
                       ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"]):
            with open(folder / f"{daemon[0]}.out", "wb") as out:
                daemons.append(subprocess.Popen(daemon, env=environment, stdout=out, stderr=out,
                                                stdin=subprocess.DEVNULL))
            deadline = time.monotonic() + 20
            while daemon[0] == "munged" and not (munge / "socket").exists():
                assert time.monotonic() < deadline, (folder / "munged.out").read_text()
                time.sleep(0.05)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True,
                                           text=True).stdout:
            assert time.monotonic() < deadline, "".join(f"{f}\n{f.read_text()}" for f in folder.glob("slurm*.log"))
            time.sleep(0.2)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()


def submit(slurm, folder, script_words=(), **parameters):
    """Submits scripts/slurm.sh with two ranks of one thread and a limit of one minute, Slurm's
    minimum, and returns the job id. Slurm sends its warning signal only at the very end, so that
    the run's own time limit stops it."""
    export = ",".join(["ALL", *(f"{key}={value}" for key, value in parameters.items())])
    out = subprocess.run(
        ["sbatch", "--parsable", "--time=1", "--signal=USR1@1", "--ntasks-per-node=2", "--cpus-per-task=1",
         f"--output={folder}/out", f"--export={export}", ROOT / "scripts/slurm.sh", *map(str, script_words)],
        env=slurm, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out.stdout.strip()


def job_field(slurm, job, field):
    shown = subprocess.run(["scontrol", "show", "job", job], env=slurm, capture_output=True, text=True, check=True)
    return re.search(rf"\b{field}=(\S+)", shown.stdout)[1]


def wait_for(condition, seconds, show):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, show()
        time.sleep(0.1)


SHAPE = dict(layers=2, heads=3, channels=192, seq_len=64, vocab_size=97, eval_every=0)


def test_slurm(slurm, pair, tmp_path):
    """A job stopped by its one-minute limit, and again by a signal, requeues itself, ends when the
    step count is reached, and leaves the same result as an uninterrupted run."""
    def train(out, steps):
        return arguments("train", data=pair, out=out, steps=steps, micro_batch=2, global_batch=8, **SHAPE)

    run(train(tmp_path / "calibration", 10), ranks=2)
    step_seconds = sum(read_log(tmp_path / "calibration").column("step_ms")) / 10 / 1000
    steps = max(30, int(7 / step_seconds))  # more than the first job can complete at this speed
    out = tmp_path / "run"
    job = submit(slurm, tmp_path, arguments("", **SHAPE)[1:], PROGRAM=BINARIES["native"], MODEL="", DATA=pair, OUT=out,
                 STEPS=steps, MICRO_BATCH=2, GLOBAL_BATCH=8, RESERVE=55, LOCAL=tmp_path / "local", STAGE_DATA=0)

    def text():
        return (tmp_path / "out").read_text() if (tmp_path / "out").exists() else ""
    wait_for(lambda: "resumed from" in text(), 90, text)
    assert re.search(rf"stops at step \d+/{steps}: the time limit is near", text()), text()
    first = checkpoints(out)[-1]
    wait_for(lambda: re.search(rf"step {first + 1}/{steps} ", text()), 30, text)
    subprocess.run(["scancel", "--signal=USR1", job], env=slurm, check=True)
    wait_for(lambda: f"reached step {steps}" in text(), 240, text)
    wait_for(lambda: job_field(slurm, job, "JobState") == "COMPLETED", 20, text)
    assert int(job_field(slurm, job, "Restarts")) >= 2
    stops = re.findall(r"stops at step (\d+)/\d+: (.*);", text())
    assert stops[1][1] == "a signal was received", text()
    assert len(stops) == int(job_field(slurm, job, "Restarts")), text()
    places = re.findall(r"rank (\d): host \S+, NUMA domain \S+, cores (\d+) \(bound by OpenMP\), 1 thread\n", text())
    assert places[0][1] != places[1][1], "srun did not bind the ranks to different cores"
    assert not list((tmp_path / "local").glob("*")), "staged files were left behind"

    uninterrupted = tmp_path / "uninterrupted"
    run(train(uninterrupted, steps), ranks=2)
    assert state_bytes(checkpoint(out, steps)) == state_bytes(checkpoint(uninterrupted, steps))
    assert stable_log(out) == stable_log(uninterrupted)


def test_slurm_failure(slurm, pair, tmp_path):
    """A failed job is not requeued, since it would fail again. Its data is staged to the node."""
    job = submit(slurm, tmp_path, arguments("", **SHAPE)[1:], PROGRAM=BINARIES["native"], MODEL="", DATA=pair,
                 OUT=pair.with_suffix(".bin"), STEPS=2, MICRO_BATCH=2, GLOBAL_BATCH=8, LOCAL="")
    wait_for(lambda: job_field(slurm, job, "JobState") == "FAILED", 30, lambda: job_field(slurm, job, "JobState"))
    assert job_field(slurm, job, "ExitCode") == "1:0" and job_field(slurm, job, "Restarts") == "0"
    assert "not requeueing the job" in (tmp_path / "out").read_text()


def test_slurm_staged_data(slurm, prepared, tmp_path):
    """STAGE_DATA=1: the run reads its data from the node's local folder, and its log records the
    same hash. A map from scripts/rank_map.py places the ranks (--distribution=arbitrary)."""
    host = subprocess.run(["sinfo", "-h", "-o", "%n"], env=slurm, capture_output=True, text=True, check=True).stdout
    (tmp_path / "hosts").write_text(rank_map("--hosts", "-", "--ranks-per-node", 2, "--tp", 2, "--format", "slurm",
                                             hosts=host).stdout)
    assert (tmp_path / "hosts").read_text() == 2 * host
    job = submit(slurm, tmp_path, arguments("", layers=1, heads=2, channels=16, seq_len=16, eval_every=0)[1:],
                 PROGRAM=BINARIES["native"], MODEL="", DATA=f"{prepared}:3", OUT=tmp_path / "run", STEPS=2,
                 MICRO_BATCH=2, GLOBAL_BATCH=4, LOCAL=tmp_path / "local", STAGE_DATA=1, TP=2,
                 RANK_MAP=tmp_path / "hosts")

    def text():
        return (tmp_path / "out").read_text() if (tmp_path / "out").exists() else ""
    wait_for(lambda: job_field(slurm, job, "JobState") in ("COMPLETED", "FAILED"), 60, text)
    assert job_field(slurm, job, "JobState") == "COMPLETED", text()
    data, = read_log(tmp_path / "run").head["data"]
    assert data["file"].startswith(str(tmp_path / "local"))
    assert "2 = 2 tensor-parallel x 1 pipeline stage x 1 data-parallel" in text()
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert data["sha256"] in json.dumps(manifest)
    assert not list((tmp_path / "local").glob("*"))


# --------------------------------------------------------------------------------------------------
# PJM

STUBS = {
    # always starts two ranks; records its arguments and the environment of the ranks
    "mpiexec": """#!/bin/bash
printf '%s\\n' "$@" >"$RECORD/mpiexec"
env | grep -E '^(OMP|XOS|OMPI|PLE)_' | sort >"$RECORD/environment"
while [ "${1#-}" != "$1" ]; do
    case $1 in -mca) shift 3 ;; *) shift 2 ;; esac
done
exec $REAL_MPIRUN -n "${STUB_RANKS:-2}" "$@"
""",
    "pjsub": """#!/bin/bash
printf '%s\\t' "$@" >>"$RECORD/pjsub"
echo >>"$RECORD/pjsub"
""",
    "llio_transfer": """#!/bin/bash
printf '%s\\n' "$*" >>"$RECORD/llio_transfer"
[ "$1" != --purge ] || shift
for file; do [ -f "$file" ] || exit 1; done
""",
    "numactl": """#!/bin/bash
printf '%s\\n' "$*" >"$RECORD/numactl"
shift 4
exec "$@"
""",
}


@pytest.fixture
def fugaku(tmp_path):
    """fugaku(script, **variables) runs a PJM script with the stubs first in PATH. The folder
    fugaku.record holds their arguments."""
    commands, record = tmp_path / "commands", tmp_path / "record"
    commands.mkdir()
    record.mkdir()
    for name, text in STUBS.items():
        (commands / name).write_text(text)
        os.chmod(commands / name, 0o755)

    def submitted(script, **variables):
        environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "RECORD": str(record),
                       "REAL_MPIRUN": shutil.which("mpirun"), **{k: str(v) for k, v in variables.items()}}
        return subprocess.run(["bash", ROOT / "scripts" / script], cwd=ROOT, env=environment, capture_output=True,
                              text=True, timeout=120)
    submitted.record = record
    return submitted


def job_variables(pair, out, **more):
    """The variables that PJM sets in a job of three nodes, and the parameters of a small run."""
    shape = dict(SHAPE, channels=24, seq_len=16)
    return {"PJM_JOBID": "4711", "PJM_NODE": "3", "PJM_ELAPSE_LIMIT": "86400", "MODEL": "", "DATA": pair, "OUT": out,
            "STEPS": 6, "MICRO_BATCH": 2, "GLOBAL_BATCH": 4, "TP": 1,
            "OPTIONS": " ".join(map(str, arguments("", **shape)[1:])), **more}


def test_pjm_job(fugaku, pair, tmp_path):
    """A job trains to its last step with the options and the environment given in Fugaku's manuals,
    and purges its cache."""
    result = fugaku("fugaku.pjm", **job_variables(pair, tmp_path / "run"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "reached step 6" in result.stdout and checkpoints(tmp_path / "run") == [6]
    given = (fugaku.record / "mpiexec").read_text().split("\n")
    assert given[:2] == ["-n", "12"] and "coll_base_reduce_commute_safe" in given and "-vcoordfile" not in given
    limit = int(given[given.index("--time-limit") + 1])
    assert 86400 - 600 - 60 < limit <= 86400 - 600
    environment = (fugaku.record / "environment").read_text().split("\n")
    for line in ("OMP_NUM_THREADS=12", "OMP_PROC_BIND=close", "OMP_PLACES=cores", "XOS_MMM_L_HPAGE_TYPE=hugetlbfs",
                 "XOS_MMM_L_PAGING_POLICY=demand:demand:demand"):
        assert line in environment
    assert (fugaku.record / "llio_transfer").read_text() == "./train_gpt\n--purge ./train_gpt\n"


def test_pjm_stops_and_resumes(fugaku, pair, tmp_path):
    """A job that runs out of time ends with status 100, the next job of the chain resumes, and the
    job that reaches the step count ends with 0. With an elastic time limit, the minimum applies."""
    out = tmp_path / "run"
    options = arguments("", **dict(SHAPE, channels=24, seq_len=16, save_every=100000, schedule="constant"))[1:]
    variables = job_variables(pair, out, PJM_ELAPSE_LIMIT=601, STEPS=100000, OPTIONS=" ".join(map(str, options)))
    reached = 0
    for more in ({}, {"PJM_ELAPSE_LIMIT": 9999, "PJM_ADAPTIVE_ELAPSED_TIME_MIN": 601}):
        result = fugaku("fugaku.pjm", **{**variables, **more})
        assert result.returncode == STOPPED, result.stdout + result.stderr
        assert "the time limit is near" in result.stdout and "the next job resumes" in result.stdout
        assert checkpoints(out)[-1] > reached
        reached = checkpoints(out)[-1]
    result = fugaku("fugaku.pjm", **{**variables, "STEPS": reached + 1, "PJM_ELAPSE_LIMIT": 9999})
    assert result.returncode == 0 and checkpoints(out)[-1] == reached + 1, result.stdout + result.stderr


def test_pjm_failure(fugaku, pair, tmp_path):
    """Any other exit status is passed on and ends the chain; the cache is still purged."""
    result = fugaku("fugaku.pjm", **job_variables(pair, tmp_path / "run", GLOBAL_BATCH=3))
    assert result.returncode == 2 and "failed with status 2" in result.stderr
    assert "--purge" in (fugaku.record / "llio_transfer").read_text()


def test_pjm_chain(fugaku):
    """On a login node the script submits the sub-jobs of one step job; each is deleted unless the
    previous one ended with status 100."""
    result = fugaku("fugaku.pjm", JOBS=3)
    assert result.returncode == 0, result.stderr
    calls = [line.split("\t") for line in (fugaku.record / "pjsub").read_text().splitlines()]
    names = {re.match(r"jnam=(fugaku-\d{14}),", call[3])[1] for call in calls}
    assert len(names) == 1
    name = names.pop()
    assert [call[:5] for call in calls] == [
        ["-X", "--step", "--sparam", f"jnam={name},sn=0", "scripts/fugaku.pjm"],
        ["-X", "--step", "--sparam", f"jnam={name},sn=1,sd=ec!=100:all:0", "scripts/fugaku.pjm"],
        ["-X", "--step", "--sparam", f"jnam={name},sn=2,sd=ec!=100:all:1", "scripts/fugaku.pjm"]]


def test_pjm_13b(fugaku, prepared, tmp_path):
    """The configuration published for Fugaku-LLM 13B: 13,824 ranks of 48 threads over four CMGs,
    the rank map, the hyperparameters. The mpiexec stub starts two ranks, so train_gpt rejects the
    grid of 6 x 8; this is its only complaint, so it accepts all other options."""
    result = fugaku("fugaku_13b.pjm", PJM_JOBID=1, PJM_NODE=13824, PJM_ELAPSE_LIMIT=165 * 3600, DATA=prepared,
                    OUT=tmp_path / "run")
    assert result.returncode == 2 and "--tp 6 x --pp 8 does not divide the 2 ranks" in result.stderr, result.stderr
    given = (fugaku.record / "mpiexec").read_text().splitlines()
    assert given[:2] == ["-n", "13824"] and given[given.index("-vcoordfile") + 1] == "rank_map_13b"
    for option, value in {"--model": "13b", "--tp": "6", "--pp": "8", "--global-batch": "2016", "--micro-batch": "1",
                          "--recompute-stages": "4", "--steps": "96882", "--init-std": "0.008"}.items():
        assert given[given.index(option) + 1] == value
    assert (fugaku.record / "numactl").read_text().startswith("-m 4-7 -N 4-7 ./train_gpt train ")
    assert "OMP_NUM_THREADS=48" in (fugaku.record / "environment").read_text()
    staged = (fugaku.record / "llio_transfer").read_text().splitlines()[0].split()
    assert f"{prepared}/train.idx" in staged and f"{prepared}/tokenizer/tokenizer.json" in staged
    assert not any(name.endswith(".bin") for name in staged)
    directives = re.findall(r"^#PJM (.*)$", (ROOT / "scripts/fugaku_13b.pjm").read_text(), re.M)
    shape = re.search(r'node=(\d+)x(\d+)x(\d+):torus', "\n".join(directives))
    assert math.prod(map(int, shape.groups())) == 13824 == 6 * 8 * 288


# --------------------------------------------------------------------------------------------------
# Rank map

def rank_map(*options, hosts=None):
    return subprocess.run([ROOT / "scripts/rank_map.py", *map(str, options)], input=hosts, capture_output=True,
                          text=True)


def nodes_of_ranks(shape, per_node, tp, pp, form):
    """The node of each rank, as PJM interprets the file."""
    result = rank_map("--shape", "x".join(map(str, shape)), "--ranks-per-node", per_node, "--tp", tp, "--pp", pp,
                      "--format", form)
    assert result.returncode == 0, result.stderr
    lines = [tuple(map(int, re.fullmatch(r"\((\d+(?:,\d+)*)\)", line)[1].split(",")))
             for line in result.stdout.splitlines()]
    nodes = [node for node in lines for _ in range(per_node)] if form == "hostfile" else lines
    assert sorted(nodes) == sorted(list(itertools.product(*map(range, shape))) * per_node)  # all nodes, fully used
    return nodes


def hops(a, b, shape):
    return sum(min(abs(i - j), n - abs(i - j)) for i, j, n in zip(a, b, shape))


@pytest.mark.parametrize("form", ["vcoord", "hostfile"])
@pytest.mark.parametrize("shape, per_node, tp, pp", [
    ((12,), 4, 4, 4), ((4, 6), 4, 2, 4), ((4, 6, 2), 4, 4, 8), ((4, 6, 2), 4, 1, 6), ((8, 4, 4), 4, 8, 8),
    ((6, 6, 4), 1, 6, 8), ((2, 3, 2), 4, 4, 12), ((8, 6, 8), 1, 6, 8)])
def test_rank_map(shape, per_node, tp, pp, form):
    """The tensor-parallel ranks of a stage are on one node if they fit, else on adjacent nodes. The
    next stage of a rank is on the same node or one hop away. The ranks of a data-parallel group are
    on different nodes where possible."""
    nodes = nodes_of_ranks(shape, per_node, tp, pp, form)
    ranks = len(nodes)
    assert ranks == math.prod(shape) * per_node
    for rank in range(ranks):
        stage, first = rank // tp % pp, rank // tp * tp
        if tp <= per_node:
            assert nodes[rank] == nodes[first]
        elif rank > first:
            assert hops(nodes[rank], nodes[rank - 1], shape) <= 1
        if stage + 1 < pp:
            assert hops(nodes[rank], nodes[rank + tp], shape) <= 1
    dp = ranks // (tp * pp)
    if tp * pp >= per_node:
        for first in range(tp * pp):
            group = [nodes[dp_rank * tp * pp + first] for dp_rank in range(dp)]
            assert len(set(group)) == dp


def test_rank_map_of_the_13b_run():
    shape, tp, pp = (48, 6, 48), 6, 8
    nodes = nodes_of_ranks(shape, 1, tp, pp, "vcoord")
    assert len(nodes) == 13824
    for rank in range(0, 13824):
        first = rank // tp * tp
        assert hops(nodes[rank], nodes[first + (rank + 1) % tp], shape) == 1  # a closed ring
        assert rank // tp % pp + 1 == pp or hops(nodes[rank], nodes[rank + tp], shape) == 1


def test_rank_map_slurm():
    hosts = [f"node{i:02d}" for i in range(6)]
    result = rank_map("--hosts", "-", "--ranks-per-node", 2, "--tp", 2, "--pp", 3, "--format", "slurm",
                      hosts="\n".join(hosts))
    assert result.stdout.split() == [host for host in hosts for _ in range(2)]
    result = rank_map("--hosts", "-", "--shape", "2x3", "--ranks-per-node", 1, "--tp", 1, "--pp", 6, "--format",
                      "slurm", hosts="\n".join(hosts))
    at = {host: divmod(i, 3) for i, host in enumerate(hosts)}
    order = [at[host] for host in result.stdout.split()]
    assert all(hops(a, b, (2, 3)) == 1 for a, b in zip(order, order[1:])) and len(set(order)) == 6


@pytest.mark.parametrize("options, mentions", [
    (["--shape", "4x6", "--tp", 3, "--format", "vcoord"], "--tp 3"),
    (["--shape", "4x6", "--tp", 4, "--pp", 7, "--format", "vcoord"], "--pp 7"),
    (["--shape", "5x5", "--tp", 8, "--pp", 1, "--ranks-per-node", 4, "--format", "vcoord"], "--tp 8"),
    (["--shape", "3x3x3x3", "--format", "vcoord"], "--shape"), (["--shape", "0x3", "--format", "vcoord"], "--shape"),
    (["--format", "vcoord"], "--shape"), (["--shape", "4", "--format", "slurm"], "--hosts")])
def test_rank_map_rejects(options, mentions):
    result = rank_map(*options)
    assert result.returncode == 2 and mentions in result.stderr.splitlines()[-1] and not result.stdout, result.stderr

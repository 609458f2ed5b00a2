"""Test helpers: running the program with a timeout, reading its output, small data and models."""
import functools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
BINARIES = {name: ROOT / f"train_gpt{suffix}" for name, suffix in
            {"native": "", "asan": ".asan", "clang": ".clang", "a64fx": ".a64fx"}.items()}

# A sanitizer report ends the process with an exit status that the program itself never uses. Leaks
# of MPICH and libgomp, which keep memory until the process ends, are suppressed. A preloaded library
# may come before ASan's runtime.
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:exitcode=99:verify_asan_link_order=0",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1:exitcode=99",
    "LSAN_OPTIONS": f"suppressions={ROOT}/test/leaks_of_others.txt:print_suppressions=0:exitcode=99",
}
# Emulated CPUs for the binary that is cross-compiled for A64FX: the A64FX itself, and CPUs with
# other SVE vector lengths.
QEMU_CPUS = {"a64fx": "a64fx", **{f"sve{bits}": f"max,sve-default-vector-length={bits // 8}"
                                  for bits in (128, 256, 1024, 2048)}}  # A64FX: 512
LAUNCHER_NOISE = re.compile(r"Abort\(\d+\) on node|application called MPI_Abort")
TIMING = {"step_ms", "tokens_per_s", "mfu", "comm_ms"}  # log fields that vary between runs


# --------------------------------------------------------------------------------------------------
# Processes

@dataclass
class Result:
    command: list
    status: int
    out: str
    err: str
    seconds: float

    @property
    def errors(self):
        """The lines that the program wrote to stderr, without those of mpirun and MPI_Abort."""
        return [line for line in self.err.splitlines() if line.strip() and not LAUNCHER_NOISE.search(line)]

    def __str__(self):
        return (f"{' '.join(map(str, self.command))}\nstatus {self.status} after {self.seconds:.1f} s\n"
                f"--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-6000:]}")


def descendants(pid):
    """`pid` and all its descendants, parents first."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # the process has ended in the meantime
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def kill_all(process):
    """kill -9 of a process and all its descendants: mpirun, its proxy and the ranks."""
    for pid in reversed(descendants(process.pid)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def build_tool(name):
    """Builds test/NAME.c; returns the folder with its builds "native" and, with sanitizers, "asan"."""
    folder = BUILD / "tools" / name
    subprocess.run(["make", "--no-print-directory", "-j2", *(f"build/tools/{name}/{build}" for build in ("native", "asan"))],
                   cwd=ROOT, check=True)
    return folder


@functools.cache
def polite_wait():
    """The environment in which waiting ranks leave the cores to others (test/polite_wait.c)."""
    subprocess.run(["make", "--no-print-directory", "build/polite_wait.so"], cwd=ROOT, check=True, capture_output=True)
    return {"LD_PRELOAD": str(BUILD / "polite_wait.so")}


def command(args, build="native", ranks=1):
    program = [BINARIES["a64fx" if build in QEMU_CPUS else build]]
    if build in QEMU_CPUS:
        sysroot = subprocess.run([ROOT / "scripts/a64fx_sysroot.sh"], check=True, capture_output=True, text=True)
        program = ["qemu-aarch64", "-cpu", QEMU_CPUS[build], "-L", sysroot.stdout.strip().splitlines()[-1], *program]
    launcher = ["mpirun", "-n", ranks] if ranks > 1 else []
    return [str(a) for a in [*launcher, *program, *args]]


def start(args, build="native", ranks=1, threads=1, env=None, prefix=(), **options):
    """Starts the program without waiting; `prefix` is a command to run it with."""
    polite = polite_wait() if (ranks > 1 or prefix) and build not in QEMU_CPUS else {}
    environment = {**os.environ, **SANITIZERS, "OMP_NUM_THREADS": str(threads), **polite, **(env or {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*prefix, *command(args, build, ranks)], env=environment, stdin=subprocess.DEVNULL,
                            **options)


def run(args, build="native", ranks=1, threads=1, check=True, timeout=120, **options):
    """Runs the program to completion. If it is still running after `timeout` seconds, it is killed
    and the test fails."""
    began = time.monotonic()
    process = start(args, build, ranks, threads, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise AssertionError(f"still running after {timeout} s: {' '.join(map(str, process.args))}")
    result = Result(process.args, process.returncode, out.decode(errors="replace"), err.decode(errors="replace"),
                    time.monotonic() - began)
    if check:
        assert result.status == 0, str(result)
    return result


def fails(args, status, *mentions, **options):
    """Runs a command that must fail with this exit status and with exactly one line on stderr,
    which must contain all `mentions`."""
    result = run(args, check=False, timeout=options.pop("timeout", 60), **options)
    assert result.status == status, f"expected status {status}\n{result}"
    assert len(result.errors) == 1, f"expected one line on stderr\n{result}"
    for word in mentions:
        assert str(word) in result.errors[0], f"{word!r} is not named\n{result}"
    return result


def arguments(command_name, **options):
    """arguments("train", steps=2, data=[a, b]) -> ["train", "--steps", 2, "--data", a, b]"""
    args = [command_name]
    for name, value in options.items():
        if value is not None:
            args += ["--" + name.replace("_", "-"), *(value if isinstance(value, (list, tuple)) else [value])]
    return args


# --------------------------------------------------------------------------------------------------
# Output of a run

@dataclass
class Log:
    head: dict    # the first line, which describes the run
    steps: list   # one line per step
    evals: list   # lines with {"step", "val_loss"}

    def column(self, name):
        return [line[name] for line in self.steps]


def read_log(out):
    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return Log(lines[0], *([line for line in lines[1:] if key in line] for key in ("loss", "val_loss")))


def stable_log(out):
    """The log lines of steps and validations, without timing fields. The closing line has nothing
    else, and is missing if the run was killed between its last checkpoint and its end."""
    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()[1:]]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines if "plan" not in line]


def checkpoint(out, step):
    return Path(out) / f"step-{step:06d}"


def checkpoints(out):
    """The steps of the complete checkpoints: those with their final names."""
    return sorted(int(path.name[5:]) for path in Path(out).glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def weights(directory):
    return load_file(Path(directory) / "model.safetensors")


def state_bytes(directory):
    """The bytes of the weights and the optimizer state, by file name."""
    return {path.name: path.read_bytes() for path in sorted(Path(directory).glob("*.safetensors"))}


def checksums_hold(directory):
    """Whether the checkpoint's checksums cover all its files and match, according to sha256sum."""
    listed = {line.split(maxsplit=1)[1].lstrip("*") for line in (directory / "SHA256SUMS").read_text().splitlines()}
    present = {path.name for path in directory.iterdir()} - {"SHA256SUMS"}
    check = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=directory, capture_output=True)
    return listed == present and check.returncode == 0


def flip_bit(path, offset, bit=0):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def truncate(path, size=None):
    os.truncate(path, path.stat().st_size // 2 if size is None else size)


# --------------------------------------------------------------------------------------------------
# Token shards

def write_pair(prefix, documents, dtype=np.uint16):
    """Writes a Megatron .bin/.idx pair with one sequence per document."""
    code = {np.uint8: 1, np.int32: 4, np.uint16: 8}[dtype]
    lengths = np.array([len(document) for document in documents], np.int32)
    ends = np.cumsum(lengths, dtype=np.int64)
    tokens = np.concatenate(documents).astype(dtype)
    Path(f"{prefix}.bin").write_bytes(tokens.tobytes())
    Path(f"{prefix}.idx").write_bytes(
        b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(documents), len(documents) + 1) + lengths.tobytes()
        + ((ends - lengths) * tokens.itemsize).tobytes() + np.arange(len(documents) + 1, dtype=np.int64).tobytes())
    return Path(prefix)


def write_llmc(path, tokens):
    """Writes an llm.c token shard."""
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, len(tokens)
    Path(path).write_bytes(header.tobytes() + np.asarray(tokens, np.uint16).tobytes())
    return Path(path)


def read_pair(prefix):
    """The documents of a Megatron pair."""
    index = Path(f"{prefix}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    version, code, sequences, entries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1 and entries == sequences + 1
    assert len(index) == 34 + 12 * sequences + 8 * entries
    lengths = np.frombuffer(index, np.int32, sequences, 34)
    tokens = np.fromfile(f"{prefix}.bin", {1: np.uint8, 4: np.int32, 8: np.uint16}[code])
    assert len(tokens) == lengths.sum()
    return [part.tolist() for part in np.split(tokens.astype(np.int64), np.cumsum(lengths)[:-1])]


def random_documents(seed, tokens, vocab, documents=7):
    """Random tokens with some structure (most depend on the previous one), so that a loss can
    decrease."""
    random = np.random.default_rng(seed)
    stream = np.empty(tokens, np.int64)
    stream[0] = 0
    jumps = random.random(tokens) < 0.3
    noise = random.integers(0, vocab, tokens)
    for i in range(1, tokens):
        stream[i] = noise[i] if jumps[i] else (stream[i - 1] * 7 + 3) % vocab
    return np.array_split(stream, documents)


# --------------------------------------------------------------------------------------------------
# PyTorch

def torch_model(seed, layers, heads, channels, seq_len, vocab):
    """A GPT2LMHeadModel with random parameters, including biases and layer norms, so that a test
    notices if any is missing."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(
        n_layer=layers, n_head=heads, n_embd=channels, n_positions=seq_len, vocab_size=vocab, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, attn_implementation="eager"))
    return randomize(model)


def randomize(model):
    """Random values for all parameters, norms' weights around 1."""
    import torch
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_norm else 0.0, 0.1)
    return model


def load_torch(directory):
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def batch_of(tokens, seq_len, first, count):
    """Samples first .. first + count - 1 in order. Sample i has seq_len + 1 tokens, from token
    i * seq_len on."""
    import torch
    rows = np.stack([tokens[i * seq_len:(i + 1) * seq_len + 1] for i in range(first, first + count)])
    rows = torch.from_numpy(rows.astype(np.int64))
    return rows[:, :-1], rows[:, 1:]


def mean_loss(model, inputs, targets):
    import torch
    return torch.nn.functional.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten())


def copied(source, target):
    shutil.copytree(source, target)
    return Path(target)


def adamw_steps(model, tokens, seq_len, global_batch, rates, clip, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
                loss_of=None):
    """Trains in PyTorch as train_gpt is specified to, a step for each learning rate; returns the
    loss and the gradient norm of each step."""
    import torch
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay},
                                   {"params": others, "weight_decay": 0.0}], lr=1, betas=betas, eps=eps)
    losses, norms = [], []
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = (loss_of or mean_loss)(model, *batch_of(tokens, seq_len, step * global_batch, global_batch))
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses, norms


def compare_weights(found, expected, channels=0, largest=1e-5):
    """Compares every tensor after 5 steps at a learning rate of 1e-4, except GPT-2's key bias, in
    `channels` elements of c_attn.bias."""
    expected = {name: tensor.detach().numpy() for name, tensor in expected.items()}
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        difference = np.abs(tensor - expected[name])
        if name.endswith("c_attn.bias"):
            difference[channels:2 * channels] = 0
        assert tensor.dtype == np.float32
        assert difference.max() <= largest and difference.mean() <= 2e-8, f"{name}: {difference.max(), difference.mean()}"

"""What the command line prints: help, version, suggestions for misspelt names, the configuration of
a run, and its progress with and without a terminal."""
import json
import os
import pty
import re
import subprocess

import pytest

from support import command, copied, fails, read_log, run


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["help"]])
def test_general_help(args):
    out = run(args).out
    for name in "prepare", "train", "eval", "generate", "trace", "kernels", "plan", "report", "export":
        assert re.search(rf"^  {name} ", out, re.M), name


@pytest.mark.parametrize("name", ["prepare", "train", "plan", "report"])
def test_help_of_a_command(name):
    """`help NAME`, `NAME --help` and `NAME -h` are the same, whatever else is given."""
    expected = run(["help", name]).out
    assert run([name, "--help"]).out == run([name, "--steps", "x", "-h"]).out == expected


def test_help_models():
    """One line per named model; each can be planned."""
    lines = run(["help", "models"]).out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("name "))
    rows = [line.split() for line in lines[head + 1:lines.index("", head)]]
    assert rows[0][:5] == ["124m", "gpt2", "12", "768", "12/12"] and "124.4" in rows[0]
    assert {"llm-jp-3-150m", "llm-jp-4-8b", "llama-3.1-8b", "qwen3-0.6b"} <= {row[0] for row in rows}
    for row in rows:
        assert f"{row[2]} layers" in run(["plan", "--model", row[0], "--micro-batch", 1]).out


def test_version():
    for args in ["--version"], ["train", "--version"]:
        lines = run(args).out.splitlines()
        assert re.match(r"train_gpt \d+\.\d+\.\d+ \(revision \w+(-dirty)?\)$", lines[0])
        assert re.match(r"compiler: (gcc|clang) \d+\.\d+\.\d+, -", lines[1])
        assert re.match(r"instruction set: \S+, vectors of \d+ bits$", lines[2])
        assert re.match(r"MPI: \S+", lines[3]) and len(lines) == 4


def test_misspelt_names():
    """The nearest command or option is suggested, but not one that is too far off."""
    fails(["trian"], 2, "trian", "did you mean train?")
    fails(["train", "--stesp", "3"], 2, "--stesp", "did you mean --steps?")
    fails(["train", "--warmup_steps=3"], 2, "did you mean --warmup-steps?")
    result = run(["frobnicate"], check=False)
    assert result.status == 2 and "did you mean" not in result.err


@pytest.mark.parametrize("option, values", [("--schedule", "cosine|constant|wsd"), ("--resume", "auto|none"),
                                            ("--kernels", "sve|ref"), ("--recompute", "none|layer")])
def test_enumerated_options_list_their_values(option, values):
    fails(["train", option, "cosin"], 2, option, values)
    assert re.search(rf"^  {option} {re.escape(values)} ", run(["help", "train"]).out, re.M)


def test_configuration(tiny, tmp_path):
    """One aligned block before step 0 states the effective configuration."""
    out = run(tiny(tmp_path / "run", steps=2, schedule="wsd", zero=1), ranks=2).out
    block = out[out.index("configuration:\n"):out.index("step 1/2")].splitlines()[1:]
    settings = {line[2:16].strip(): line[16:] for line in block if line.startswith("  ") and line[2] != " "}
    assert {"model", "data", "ranks", "step", "parallelism", "optimizer", "learning rate", "kernels",
            "output"} <= set(settings)
    assert settings["ranks"].startswith("2 = 1 tensor-parallel x 1 pipeline stage x 2 data-parallel")
    assert "wsd" in settings["learning rate"] and settings["parallelism"].startswith("ZeRO 1")
    assert settings["output"] == str(tmp_path / "run")


def test_configuration_of_other_families(tiny, tmp_path):
    """What differs from GPT-2 has a line of its own; the log has config.json."""
    options = dict(family="qwen3", heads=4, kv_heads=2, head_dim=6, tied=1, rope_theta="5e5", z_loss="1e-4")
    out = run(tiny(tmp_path / "run", steps=2, save_every=0, **options)).out
    assert re.search(r"^  model +Qwen3ForCausalLM, \d+ layers, .*\n {16}2 KV heads, head dim 6, MLP \d+, rope theta "
                     r"500000, RMSNorm eps 1e-06, tied head, QK-norm$", out, re.M), out
    assert "z-loss 0.0001" in out
    model = read_log(tmp_path / "run").head["model"]
    assert (model["architectures"], model["num_key_value_heads"], model["rope_theta"]) == (["Qwen3ForCausalLM"], 2, 5e5)


def test_logs_from_before_the_families(finished, tmp_path):
    """A log without "model" describes a GPT-2; a log with a damaged one is refused."""
    folder = copied(finished, tmp_path / "run")
    planned = run(["plan", "--run", folder]).out
    lines = (folder / "log.jsonl").read_text().splitlines()
    head = json.loads(lines[0])
    for model, mention in (None, ""), ({**head["model"], "n_head": 5}, "n_head"), ({}, "model_type"), (5, "object"):
        changed = {key: value for key, value in {**head, "model": model}.items() if value is not None}
        (folder / "log.jsonl").write_text("\n".join([json.dumps(changed), *lines[1:]]) + "\n")
        if mention:
            fails(["plan", "--run", folder], 1, "log.jsonl", mention)
        else:
            assert run(["plan", "--run", folder]).out == planned


def step_lines(text):
    return [int(step) for step in re.findall(r"^step (\d+)/\d+ \|", text, re.M)]


def test_log_every(tiny, tmp_path):
    """A line stays every N steps, at the first step and at the last; the log has all of them."""
    out = run(tiny(tmp_path / "run", steps=20, log_every=7, save_every=0)).out
    assert step_lines(out) == [1, 7, 14, 20]
    assert len(read_log(tmp_path / "run").steps) == 20 and "\r" not in out


def test_lines_of_a_long_run(tiny, tmp_path):
    """By default some hundreds of lines are printed."""
    steps = step_lines(run(tiny(tmp_path / "run", steps=600, save_every=0, eval_every=0)).out)
    assert steps == [1, *range(2, 601, 2)]


def test_terminal(tiny, tmp_path):
    """On a terminal one status line follows every step; the lines that stay are as without."""
    args = tiny(tmp_path / "run", steps=6, log_every=3, save_every=3)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command(args), stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert process.wait(60) == 0, process.stderr.read()
    text = shown.decode()
    in_place = re.findall(r"\rstep (\d+)/6 [^\r\n]*\x1b\[K", text)
    assert in_place == ["2", "4", "5"]
    assert "\r\x1b[Kstep 3/6 " in text and "\r\x1b[Ksaved " in text


def test_compiler_is_named(finished):
    assert re.match(r"(gcc|clang) \d+\.", read_log(finished).head["compiler"])

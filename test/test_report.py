"""Monitoring and publishing a run: TensorBoard event files, the HTML page of `report`, the model
card.

TensorBoard itself reads the event files, and Chromium renders the page. Values are compared with
log.jsonl: event files hold the log's numbers rounded to float32; the page holds the last value of
each curve as a double.
"""
import json
import math
import random
import re
import shutil
import struct
import subprocess
import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support import (arguments, checkpoint, copied, fails, random_documents, read_log, run, start, torch_model,
                     truncate, write_pair)
from test_resume import kill_when, logged

SVG = "{http://www.w3.org/2000/svg}"
HTML = "{http://www.w3.org/1999/xhtml}"


# --------------------------------------------------------------------------------------------------
# Runs

@pytest.fixture(scope="module")
def eventful(tmp_path_factory):
    """A run of 60 steps, resumed after step 30, that skips some of its steps. One token's embedding
    is so large that the gradient norm overflows when the token is a target twice in a batch. Its
    channel does not reach the output, and the learning rate is 0, so the loss stays finite."""
    import torch
    folder = tmp_path_factory.mktemp("eventful")
    model = torch_model(5, 2, 3, 24, 16, 97)
    with torch.no_grad():
        model.transformer.wte.weight[48] = 0
        model.transformer.wte.weight[48, 0] = 9.5e20
        model.transformer.ln_f.weight[0] = model.transformer.ln_f.bias[0] = 0
    model.save_pretrained(folder / "init")
    data = write_pair(folder / "tokens", random_documents(1, 3000, 97))
    for steps in 30, 60:
        run(arguments("train", data=data, val_data=data, init=folder / "init", out=folder / "run", vocab_size=97,
                      micro_batch=2, global_batch=4, steps=steps, lr=0, min_lr=0, eval_every=10, save_every=30))
    skipped = sum(read_log(folder / "run").column("skipped"))
    assert 0 < skipped < 60
    return folder / "run"


@pytest.fixture(scope="module")
def mixture(prepared, tmp_path_factory):
    """A run on a mixture of two datasets, 3:1, that evaluates both."""
    folder = tmp_path_factory.mktemp("mixture")
    other = copied(prepared, folder / "other")
    out = folder / "run"
    run(arguments("train", data=[f"{prepared}:3", f"{other}:1"], out=out, layers=2, heads=3, channels=24, seq_len=32,
                  micro_batch=2, global_batch=4, steps=40, lr=3e-3, min_lr=3e-4, eval_every=10, eval_batches=2,
                  save_every=20))
    return out


# --------------------------------------------------------------------------------------------------
# Event files

def expected_scalars(out):
    """{tag: [(step, float32 value)]} according to the log."""
    scalars = {}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]

    def add(tag, step, value):
        scalars.setdefault(tag, []).append((step, np.float32(math.nan if value is None else value)))
    for line in lines[1:]:
        group = "eval" if "val_loss" in line else "train"
        for key, value in line.items():
            if key == "source_samples":
                for entry, samples in zip(lines[0]["data"], value):
                    add(f"data/samples/{entry['path']}", line["step"], samples)
            elif key == "val_losses":
                for path, loss in value.items():
                    add(f"eval/val_loss/{path}", line["step"], loss)
            elif key not in ("step", "plan") and not isinstance(value, str):
                add(f"{group}/{key}", line["step"], value)
    return scalars


def same_as_log(out):
    """TensorBoard must read exactly what is in the log. Returns the events of the loss."""
    accumulator = EventAccumulator(str(out), size_guidance={"scalars": 0})
    accumulator.Reload()
    expected = expected_scalars(out)
    assert set(accumulator.Tags()["scalars"]) == set(expected)
    for tag, values in expected.items():
        found = [(event.step, np.float32(event.value)) for event in accumulator.Scalars(tag)]
        assert [step for step, _ in found] == [step for step, _ in values], tag
        assert np.array_equal([v for _, v in found], [v for _, v in values], equal_nan=True), tag
    times = [event.wall_time for event in accumulator.Scalars("train/loss")]
    assert times == sorted(times)
    return accumulator.Scalars("train/loss")


def event_files(out):
    return sorted(out.glob("events.out.tfevents.*"))


def records(path):
    """The payloads of an event file, with their CRCs verified by TensorFlow's function."""
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        length, crc = struct.unpack_from("<QI", data, at)
        payload = data[at + 12:at + 12 + length]
        assert crc == masked_crc32c(data[at:at + 8])
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc32c(payload)
        found.append(payload)
        at += 16 + length
    return found


def test_events(eventful, mixture, tiny, tmp_path):
    run(tiny(tmp_path / "two", steps=4), ranks=2)
    for out in eventful, mixture, tmp_path / "two":
        same_as_log(out)
        assert len(event_files(out)) == 1 and not (out / ".events.new").exists()
    assert {"train/loss", "train/grad_norm", "train/lr", "train/tokens_per_s", "train/mfu", "train/step_ms",
            "train/skipped", "eval/val_loss"} <= set(expected_scalars(mixture))
    assert "train/comm_ms" in expected_scalars(tmp_path / "two")
    assert [tag for tag in expected_scalars(mixture) if tag.startswith("eval/val_loss/")]
    assert [tag for tag in expected_scalars(mixture) if tag.startswith("data/samples/")]


def test_event_bytes(finished):
    """The version, a session start, then one event for each log line, in order."""
    found = records(event_files(finished)[0])
    assert found[0][9:] == b"\x1a\x0dbrain.Event:2" and found[1][9:] == b"\x3a\x02\x08\x01"
    log = read_log(finished)
    # the last event is the end of the run, which has no scalars
    assert len(found) == 2 + len(log.steps) + len(log.evals) + 1
    first = log.steps[0]
    assert found[2][:1] == b"\x09" and found[2][9:11] == b"\x10\x01"
    assert b"\x0a\x0atrain/loss\x15" + struct.pack("<f", first["loss"]) in found[2]
    assert b"\x0a\x0dtrain/skipped\x15" + struct.pack("<f", 0) in found[2]


def test_events_after_kills(tiny, tmp_path):
    """After kill -9 at several steps and a final resume, TensorBoard sees each step once."""
    out = tmp_path / "run"
    args = tiny(out, channels=96, seq_len=64, micro_batch=4, global_batch=4, steps=40, save_every=5, eval_every=4,
                val_data=tiny.data)
    names, times = set(), {}
    for step in 3, 12, 13, 27:
        assert kill_when(lambda: logged(out, step), args)
        names.update(path.name for path in event_files(out))
        # a record that the kill truncated
        truncate(event_files(out)[-1], event_files(out)[-1].stat().st_size - random.Random(step).randrange(1, 60))
    events = records_until_broken(event_files(out)[-1])
    run(args)
    loss = same_as_log(out)
    assert len(event_files(out)) == 1 and event_files(out)[0].name > max(names)
    times = {event.step: event.wall_time for event in loss}
    for step, wall_time in events.items():
        if step <= 25:  # the last checkpoint before the kill at 27: earlier steps keep their times
            assert times[step] == wall_time
    assert len(loss) == 40 and loss[-1].step == 40


def records_until_broken(path):
    """{step: wall time} of the complete records of a truncated file."""
    data, at, times = path.read_bytes(), 0, {}
    while at + 12 <= len(data):
        length = struct.unpack_from("<Q", data, at)[0]
        payload = data[at + 12:at + 12 + length]
        if len(payload) < length:
            break
        if b"train/loss" in payload:
            times[payload[10]] = struct.unpack_from("<d", payload, 1)[0]  # steps below 128 take one byte
        at += 16 + length
    assert at < len(data) and times
    return times


def test_valid_events_are_kept(tiny, finished, tmp_path):
    """A finished run has nothing left to do: its event file is kept under the same name."""
    out = copied(finished, tmp_path / "run")
    before = event_files(out)[0].read_bytes()
    run(tiny(out))
    assert [path.name for path in event_files(out)] == [path.name for path in event_files(finished)]
    assert event_files(out)[0].read_bytes()[:len(before)] == before
    same_as_log(out)


@pytest.mark.parametrize("harm", ["gone", "empty", "random", "other length", "two files"])
def test_damaged_events(tiny, finished, harm, build, tmp_path):
    """Missing or corrupt event files are rebuilt from the log."""
    out = copied(finished, tmp_path / "run")
    file = event_files(out)[0]
    if harm == "gone":
        file.unlink()
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "random":
        file.write_bytes(np.random.default_rng(0).bytes(5000))
    elif harm == "other length":
        data = bytearray(file.read_bytes())
        data[56:64] = struct.pack("<Q", 1 << 62)
        file.write_bytes(data)
    else:
        shutil.copy(file, file.with_name(file.name.replace(".0.train_gpt", ".1.train_gpt")))
    run(tiny(out, steps=10), build=build)
    same_as_log(out)
    assert len(event_files(out)) == 1


def test_foreign_events_are_kept(tiny, finished, tmp_path):
    """Event files of other programs are not touched."""
    out = copied(finished, tmp_path / "run")
    other = out / "events.out.tfevents.1700000000.host.1.0"
    other.write_bytes(b"")
    run(tiny(out, steps=10))
    assert other.exists()


# --------------------------------------------------------------------------------------------------
# The page

def page(runs, out, build="native"):
    """Writes a report and parses it with a strict XML parser."""
    run(arguments("report", run=runs, out=out), build=build)
    return ElementTree.parse(out).getroot()


def by_id(root, name):
    return next((node for node in root.iter() if node.get("id") == name), None)


def curves(root, figure):
    """{run number: (points, last x, last y)} of a chart, from the first path of each run."""
    found = {}
    for path in by_id(root, figure).iter(f"{SVG}path"):
        if path.get("data-points"):
            number = re.search(r"\brun(\d+)\b", path.get("class")).group(1)
            x, y = map(float, path.get("data-last").split())
            found.setdefault(int(number), (int(path.get("data-points")), x, y))
    return found


def cells(root, table):
    return [["".join(cell.itertext()) for cell in row] for row in by_id(root, table).iter(f"{HTML}tr")]


def drawn_x(path):
    return [float(x) for x in re.findall(r"[ML](-?[\d.]+) ", path.get("d"))]


def browse(file, tmp_path, width, *options):
    """A screenshot in headless Chromium. Any console message fails the test; a blocked request
    gives one."""
    picture = tmp_path / f"{width}{''.join(options)[-1:]}.png"
    result = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                             f"--user-data-dir={tmp_path}/profile", "--disable-background-networking",
                             "--enable-logging=stderr", f"--screenshot={picture}", f"--window-size={width},2400",
                             *options, file.as_uri()], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0 and picture.exists(), result.stderr
    assert "CONSOLE" not in result.stderr, result.stderr
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


def color_count(picture, color):
    return int((np.abs(picture - np.array(color)).sum(axis=2) < 24).sum())


def test_page(eventful, mixture, finished, tmp_path):
    out = tmp_path / "page.html"
    root = page([eventful, mixture, finished], out)
    logs = [read_log(path) for path in (eventful, mixture, finished)]
    tokens = len({log.head["global_batch"] * log.head["seq_len"] for log in logs}) > 1
    assert tokens  # the batch sizes differ, so the x axis shows tokens
    for figure, key, factor in (("loss", "loss", 1), ("lr", "lr", 1), ("tokens-per-s", "tokens_per_s", 1),
                                ("mfu", "mfu", 100), ("grad-norm", "grad_norm", 1)):
        found = curves(root, figure)
        for number, log in enumerate(logs):
            values = [(line["tokens"], line[key]) for line in log.steps if line[key] is not None]
            points, x, y = found[number]
            assert points == len(values) and x == values[-1][0] and y == pytest.approx(factor * values[-1][1], rel=1e-15)
    assert {number: y for number, (_, _, y) in curves(root, "val-loss").items()} == {
        number: log.evals[-1]["val_loss"] for number, log in enumerate(logs) if log.evals}
    skipped = sum(logs[0].column("skipped"))
    marks = list(by_id(root, "loss").iter(f"{SVG}path"))
    assert sum("skipped" in mark.get("class").split() for mark in marks) == skipped
    assert sum("restart" in line.get("class").split() for line in by_id(root, "loss").iter(f"{SVG}line")) == 1
    for svg in root.iter(f"{SVG}svg"):
        assert svg.get("role") == "img" and svg[0].tag == f"{SVG}title" and svg[0].text
        assert svg[1].tag == f"{SVG}desc" and svg[1].text
        assert svg.get("aria-labelledby").split() == [svg[0].get("id"), svg[1].get("id")]
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids))

    # shares and losses by dataset, for the run on several datasets
    last = logs[1].steps[-1]["source_samples"]
    shares = [path for path in by_id(root, "shares1").iter(f"{SVG}path") if path.get("data-last")]
    assert sorted(float(path.get("data-last")) for path in shares) == sorted(last)
    losses = logs[1].evals[-1]["val_losses"]
    assert [curves(root, f"val-source{n}")[1][2] for n in range(len(losses))] == list(losses.values())

    rows = cells(root, "results")
    assert [row[0] for row in rows[1:]] == [str(eventful), str(mixture), str(finished)]  # all are called "run"
    for row, log in zip(rows[1:], logs):
        assert row[1] == f"{log.steps[-1]['step']} of {log.steps[-1]['step']}"
        assert row[3] == f"{log.steps[-1]['loss']:.4f}"
        assert int(row[9]) == sum(log.column("skipped"))
    assert [row[10] for row in rows[1:]] == ["1", "0", "0"]
    config = {row[0]: row[1:] for row in cells(root, "config")}
    assert config["seed"] == [str(log.head["options"]["seed"]) for log in logs]
    assert config["kernels"] == ["sve"] * 3
    hashes = [entry["sha256"] for log in logs for entry in log.head["data"]]
    assert [row[-1] for row in cells(root, "data")[1:]] == hashes

    # the page refers to nothing outside itself
    text = out.read_text()
    assert not re.search(r"<script|@import|url\(|\bsrc=", text)
    assert set(re.findall(r"\w+://[^\"' <]+", text)) <= {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}
    assert [node.get("href") for node in root.iter() if node.get("href")] == ["data:,"]


def test_page_in_browser(eventful, mixture, tmp_path):
    """Chromium renders the page wide and narrow, light and dark, without console messages, and
    draws the curves in the colors of the runs."""
    out = tmp_path / "page.html"
    root = page([eventful, mixture], out)
    for width in 1400, 400:
        picture = browse(out, tmp_path, width)
        assert picture.shape[1] == width
        assert np.median(picture) > 200  # light
        for color in (0x0b, 0x69, 0xc7), (0xd9, 0x48, 0x0f):
            assert color_count(picture, color) > 500, (width, color)
    dark = browse(out, tmp_path, 1400, "--blink-settings=preferredColorScheme=0")
    assert np.median(dark) < 60 and color_count(dark, (0x5a, 0xa9, 0xf2)) > 500
    result = subprocess.run(["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                             f"--user-data-dir={tmp_path}/profile", out.as_uri()], capture_output=True, text=True,
                            timeout=100)
    assert result.stdout.count("<svg") == len(list(root.iter(f"{SVG}svg"))) > 8
    assert result.stdout.count("data-points") == sum(1 for node in root.iter() if node.get("data-points"))
    assert result.stdout.rstrip().endswith("</html>")


def test_one_run(mixture, tmp_path):
    """For a single run, all datasets share one chart, and the x axis shows steps."""
    root = page(mixture, tmp_path / "page.html")
    log = read_log(mixture)
    assert curves(root, "loss")[0] == (40, 40, log.steps[-1]["loss"])
    figure = by_id(root, "val-sources")
    ends = [float(path.get("data-last").split()[1]) for path in figure.iter(f"{SVG}path")]
    assert ends == list(log.evals[-1]["val_losses"].values())


def write_log(folder, lines):
    folder.mkdir()
    (folder / "log.jsonl").write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode()
                                                  for line in lines))
    return folder


HEAD = {"program": "train_gpt", "global_batch": 2, "seq_len": 8, "data": [], "options": {"steps": 9}}


def step_line(step, loss=2.0, **more):
    return {"step": step, "loss": loss, "grad_norm": 1.0, "lr": 1e-3, "tokens": 16 * step, "step_ms": 1.0,
            "tokens_per_s": 16000.0, "mfu": 0.1, "skipped": False, **more}


def test_long_log(tmp_path):
    """200,000 steps: curves are reduced to about 2,000 points and keep the extreme values."""
    random_loss = np.random.default_rng(1).normal(3, 0.1, 200_000)
    random_loss[123_456], random_loss[77_777] = 9.0, 0.5
    folder = write_log(tmp_path / "run", [HEAD, *(step_line(i + 1, float(v)) for i, v in enumerate(random_loss)), b""])
    root = page(folder, tmp_path / "page.html")
    paths = [path for path in by_id(root, "loss").iter(f"{SVG}path")]
    raw, smooth = paths[0], paths[1]
    assert int(raw.get("data-points")) == 200_000
    assert float(raw.get("data-last").split()[1]) == random_loss[-1]
    points = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", raw.get("d"))
    assert 1000 <= len(points) <= 2050 and len(drawn_x(smooth)) <= 1024
    assert drawn_x(raw) == sorted(drawn_x(raw))
    y = np.array(points, float)
    assert y[:, 0][y[:, 1].argmin()] == pytest.approx(84 + 526 * 123_456 / 199_999, abs=1)
    assert y[:, 0][y[:, 1].argmax()] == pytest.approx(84 + 526 * 77_777 / 199_999, abs=1)
    assert (tmp_path / "page.html").stat().st_size < 500_000


def test_hostile_log(build, tmp_path):
    """Invalid lines, lines of unknown kind or out of order, extreme values, names with markup."""
    head = {**HEAD, "data": [{"path": "<b>&\"'\u0001x", "weight": 1e300, "tokens": -5}, 7, {"path": None}],
            "options": {"steps": 9, "<script>alert(1)</script>": "]]></style>", "list": [1]}}
    many = {f"v{i}<": 1.0 for i in range(50)}
    folder = write_log(tmp_path / "<i>&run", [
        head, step_line(1), b"{", b"", b"[1]", b"\xff\xfe", {"step": 2}, step_line(2, 1e308), step_line(3, -1e308),
        step_line(4, -3.0, source_samples=[1, 2, 3]), step_line(3), step_line(5, None, source_samples=["x"]),
        step_line(6, 0.0, source_samples=[1]), step_line(7, source_samples=[0, 0, 0], step_ms=0), step_line(-1),
        {"step": 7, "val_loss": 2.5, "val_losses": many}, {"step": 7, "val_loss": None, "val_losses": 3},
        step_line(2**64 - 1, tokens=2**64 - 1), json.dumps(step_line(8)).encode()[:-5]])
    (folder / "restarts.jsonl").write_bytes(b'{"from_step": 3}\n{"from_step": "x"}\n{"from')
    root = page([folder, folder], tmp_path / "page.html", build)
    assert root.find(f"{HTML}head/{HTML}title").text.endswith("<i>&run")
    row = cells(root, "results")[1]
    assert "4 broken lines" in row[-1] and "incomplete" in row[-1] and "out of order" in row[-1]
    assert "<b>&\"'\ufffdx" in [row[1] for row in cells(root, "data")]
    assert not list(root.iter(f"{HTML}script")) and not list(root.iter(f"{HTML}b"))


def test_order_of_lines(eventful, mixture, finished, tmp_path):
    """The closing line, which repeats the last step, is in order; a step that comes late is not."""
    root = page([eventful, mixture, finished], tmp_path / "page.html")
    assert [row[-1] for row in cells(root, "results")[1:]] == ["", "", ""]
    plan = {"step": 3, "plan": {}}
    in_order = [HEAD, step_line(1), {"step": 1, "val_loss": 2.0}, step_line(2), step_line(3), {"step": 3, "val_loss": 2.0}]
    for number, (late, count) in enumerate((([plan], 0), ([plan, step_line(2)], 1), ([{**plan, "step": 2}], 1),
                                            ([step_line(3), {"step": 2, "val_loss": 1.0}], 2))):
        folder = write_log(tmp_path / str(number), [*in_order, *late, b""])
        notes = cells(page(folder, tmp_path / "page.html"), "results")[1][-1]
        assert notes == (f"{count} line{'s'[:count > 1]} out of order or of unknown kind ignored" if count else "")


def test_out_of_range_sample_counts(build, tmp_path):
    """A line with an impossible sample count is left out of the shares for all datasets."""
    lines = [step_line(1, source_samples=[1, 1e35]), step_line(2, source_samples=[3, 1])]
    for count, last in (1, []), (2, ["3", "1"]):
        folder = write_log(tmp_path / str(count), [HEAD, *lines[:count], b""])
        paths = page(folder, tmp_path / "page.html", build).iter(f"{SVG}path")
        assert [path.get("data-last") for path in paths if path.get("class").startswith("area ")] == last


def test_compiler(finished, tmp_path):
    """Page and card show the compiler. Early logs contain only gcc's version number."""
    for logged, shown in (("gcc 12.2.0", "gcc 12.2.0"), ("clang 14.0.6", "clang 14.0.6"), ("12.2.0", "gcc 12.2.0")):
        folder = write_log(tmp_path / logged, [{**HEAD, "compiler": logged}, step_line(1), b""])
        config = {row[0]: row[1:] for row in cells(page(folder, tmp_path / "page.html"), "config")}
        assert config["compiler"] == [shown]
    compiler = re.search(r"\| compiler \| (.*) \|", card_of(checkpoint(finished, 8))[1]).group(1)
    assert re.match(r"(gcc|.*[Cc]lang) \d", compiler)


@pytest.mark.parametrize("lines", [[], [b"{"], [b"[]"], [{"program": "other"}], [step_line(1), step_line(2)]],
                         ids=["empty", "broken", "array", "other program", "no head"])
def test_no_run(lines, build, tmp_path):
    folder = write_log(tmp_path / "run", lines)
    fails(arguments("report", run=folder, out=tmp_path / "page.html"), 1, folder / "log.jsonl", build=build)
    assert not (tmp_path / "page.html").exists()


def test_report_errors(finished, tmp_path):
    fails(["report"], 2, "--run")
    fails(["report", "--run"], 2, "--run")
    fails(arguments("report", run=tmp_path / "nothing"), 1, tmp_path / "nothing")
    fails(arguments("report", run=tmp_path), 1, tmp_path)
    fails(arguments("report", run=[finished, tmp_path], out=tmp_path / "x.html"), 1, tmp_path)
    fails(arguments("report", run=finished, out=tmp_path / "no" / "x.html"), 1, tmp_path / "no")
    assert not list(tmp_path.iterdir())
    fails(arguments("report", run=finished, out="/dev/full/x"), 1, "/dev/full/x")


# --------------------------------------------------------------------------------------------------
# Model card

def card_of(directory):
    """The front matter as {key: value or list}, and the body after it."""
    text = (directory / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    matter, key = {}, None
    for line in front.splitlines():
        if line.startswith("- "):
            matter.setdefault(key, []).append(line[2:])
        else:
            key, value = line.split(":", 1)
            matter.update({key: value.strip()} if value.strip() else {})
    return matter, body


def table(body, first_cell):
    """The rows of the Markdown table whose header starts with this cell, as unescaped cells."""
    lines = body.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    rows = []
    for line in lines[start + 2:]:
        if not line.startswith("|"):
            break
        rows.append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_card(mixture, prepared):
    step = checkpoint(mixture, 20)
    matter, body = card_of(step)
    assert matter["library_name"] == "transformers" and matter["pipeline_tag"] == "text-generation"
    assert set(matter["language"]) == {"ja", "en"} and "license" not in matter
    log = read_log(mixture)
    head, line = log.head, log.steps[19]
    assert f"{head['parameters']:,}" in body
    assert "| training steps | 20 of 40 |" in body and f"| tokens seen | {line['tokens']:,} |" in body
    losses = table(body, "steps")
    assert len(losses) == 10 and losses[-1][0] == "19 to 20"
    assert losses[-1][1] == f"{(log.steps[18]['loss'] + log.steps[19]['loss']) / 2:.4f}"
    evals = [e for e in log.evals if e["step"] <= 20]
    assert [row[:2] for row in table(body, "step")] == [[str(e["step"]), f"{e['val_loss']:.4f}"] for e in evals]
    assert [row[3:] for row in table(body, "step")] == [[f"{v:.4f}" for v in e["val_losses"].values()] for e in evals]

    sets = table(body, "dataset")
    assert [row[0] for row in sets] == [entry["path"] for entry in head["data"]]
    assert [row[1] for row in sets] == ["3", "1"] and [row[2] for row in sets] == ["75.00%", "25.00%"]
    assert [row[3] for row in sets] == [f"{n * head['seq_len']:,}" for n in line["source_samples"]]
    assert [row[5].strip("`") for row in sets] == [entry["sha256"] for entry in head["data"]]
    manifest = json.loads((prepared / "manifest.json").read_text())
    rows = table(body, "source file")
    assert len(rows) == len(manifest["sources"])
    total = sum(source["tokens"] for source in manifest["sources"])
    for row, source in zip(rows, manifest["sources"]):
        assert row[:3] == [source["path"], f"{source['documents']:,}", f"{source['tokens']:,}"]
        assert row[3] == f"{100 * source['tokens'] / total:.2f}%"
        assert row[7] == f"`{source['sha256']}`"
        for cell, facet in zip(row[4:7], ("source", "license", "language")):
            values = source["origin"].get(facet, [])
            assert (max(values, key=lambda v: v["documents"])["value"] in cell) if values else cell == "not stated"
    text = subprocess.run(["sha256sum", prepared / "manifest.json"], capture_output=True, text=True).stdout
    assert text[:64] in body
    assert "| MPI ranks x threads | 1 x 1 |" in body.split("## Hardware and time")[1]


def test_card_without_manifest(finished):
    log = read_log(finished)
    matter, body = card_of(checkpoint(finished, 8))
    assert "language" not in matter and "license" not in matter
    assert "The origin of these tokens is not recorded." in body
    assert "Validation loss was not measured." in body
    assert table(body, "dataset")[0][2:4] == ["100.00%", f"{log.steps[-1]['tokens']:,}"]


def test_card_license_and_groups(tmp_path):
    """A license common to all documents appears in the front matter, many source files are grouped,
    and markup is escaped."""
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(25):
        (folder / f"{i:02}.jsonl").write_text("".join(
            json.dumps({"text": f"Some text, number {i} {j}. " * 8, "source": f"a|b*{j % 3}", "license": "MIT",
                        "lang": "en"}) + "\n" for j in range(6)))
    run(arguments("prepare", input=folder, out=tmp_path / "data", vocab_size=290, val_fraction=0))
    out = tmp_path / "run"
    train = arguments("train", data=tmp_path / "data", out=out, layers=1, heads=1, channels=8, seq_len=16, micro_batch=1,
                      steps=2, eval_every=0, save_every=1)
    run(train)
    matter, body = card_of(checkpoint(out, 1))
    assert matter["license"] == "mit" and matter["language"] == ["en"]
    assert "25 source files, 150 documents" in body
    assert table(body, "origin") == [[f"a|b*{k}", "50", "33.33%"] for k in range(3)]
    assert table(body, "license") == [["MIT", "150", "100.00%"]]


def test_card_replaced_manifest(prepared, tmp_path):
    """If the manifest is replaced during the run by that of other shards, the card does not use it
    and says so."""
    data, out = copied(prepared, tmp_path / "data"), tmp_path / "run"
    process = start(arguments("train", data=data, out=out, layers=1, heads=1, channels=8, seq_len=16, micro_batch=1,
                              steps=3000, eval_every=0, save_every=1500, keep=0), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not logged(out, 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["splits"]["train"]["bin"]["sha256"] = "0" * 64
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert process.wait(60) == 0
    body = card_of(checkpoint(out, 3000))[1]
    assert "describes other shards" in body and "| source file |" not in body


def test_card_after_resume(tiny, finished, tmp_path):
    """A resumed run writes the same card, except for the hardware and time section."""
    out = copied(finished, tmp_path / "run")
    for step in 6, 8:
        shutil.rmtree(checkpoint(out, step))
    run(tiny(out))
    parts = [(checkpoint(path, 8) / "README.md").read_text().split("## Hardware and time") for path in (out, finished)]
    assert parts[0][0] == parts[1][0]
    assert "| restarts | 1 |" in parts[0][1] and "| restarts | 0 |" in parts[1][1]


def test_card_loads(mixture):
    """Hugging Face's model card parser accepts the front matter."""
    from huggingface_hub import ModelCard
    card = ModelCard.load(checkpoint(mixture, 40) / "README.md")
    assert card.data.library_name == "transformers" and card.data.tags == ["gpt2", "train_gpt"]
    assert sorted(card.data.language) == ["en", "ja"]

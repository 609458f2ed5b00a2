#!/usr/bin/env python3
"""Draws the pictures of README.md from a finished run:

    scripts/pictures.py [--run runs/quickstart] [--out docs] [--program ./train_gpt]

OUT/loss.png    training loss of each step, its moving average, and validation loss
OUT/report.png  the top of the run's HTML report, as headless Chromium renders it

Requires matplotlib (pip install matplotlib), Chromium (apt-get install chromium) and the built
program. Both pictures together must stay below 300 KB: every clone carries them.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 300_000  # bytes, both pictures together
TRAIN, SMOOTH, VALIDATION = "#9ecae1", "#08519c", "#d94801"
REPORT_SIZE = 1280, 792  # pixels: two columns of charts, two rows


def die(message):
    sys.exit(f"pictures: {message}")


def read_losses(log):
    """(steps, training losses) and (steps, validation losses) from a log.jsonl."""
    train, validation = {}, {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("loss") is not None:
            train[entry["step"]] = entry["loss"]
        if entry.get("val_loss") is not None:
            validation[entry["step"]] = entry["val_loss"]
    if not train:
        die(f"{log}: no steps with a loss")
    return tuple(zip(*sorted(train.items()))), tuple(zip(*sorted(validation.items())))


def moving_average(values, width):
    """The mean of up to `width` values around each value; fewer at both ends."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    half, n = width // 2, len(values)
    windows = [(max(0, i - half), min(n, i + half + 1)) for i in range(n)]
    return [(sums[end] - sums[start]) / (end - start) for start, end in windows]


def draw_loss(log, picture):
    try:
        import matplotlib
    except ImportError:
        die("matplotlib not found: run pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    (steps, losses), validation = read_losses(log)
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=100)
    axes.plot(steps, losses, color=TRAIN, linewidth=0.6, label="training, each step")
    axes.plot(steps, moving_average(losses, max(1, len(losses) // 40)), color=SMOOTH, linewidth=2,
              label="training, moving average")
    if validation:
        axes.plot(*validation, color=VALIDATION, marker="o", markersize=4, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_xlim(0, steps[-1])
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(picture)


def draw_report(program, run, picture):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        die("chromium not found: run apt-get install chromium")
    with tempfile.TemporaryDirectory() as work:
        page = Path(work) / "report.html"
        subprocess.run([program, "report", "--run", run, "--out", page], check=True,
                       stdout=subprocess.DEVNULL)
        size = ",".join(map(str, REPORT_SIZE))
        result = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={work}/profile", f"--window-size={size}",
             f"--screenshot={picture.resolve()}", page.as_uri()],
            capture_output=True, text=True, timeout=120)
    if result.returncode or not picture.exists():
        die(f"chromium failed: {result.stderr}")


def shrink(picture):
    """A palette of 128 colours: charts look the same and take a third of the bytes."""
    from PIL import Image  # comes with matplotlib
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(picture, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs/quickstart",
                        help="directory of the run (default runs/quickstart)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs",
                        help="directory for the pictures (default docs)")
    parser.add_argument("--program", type=Path, default=ROOT / "train_gpt",
                        help="the program (default ./train_gpt)")
    args = parser.parse_args()
    if not (args.run / "log.jsonl").exists():
        die(f"{args.run}/log.jsonl does not exist: run scripts/quickstart.sh first, or set --run")

    pictures = [args.out / "loss.png", args.out / "report.png"]
    args.out.mkdir(parents=True, exist_ok=True)
    draw_loss(args.run / "log.jsonl", pictures[0])
    draw_report(args.program, args.run, pictures[1])
    for picture in pictures:
        shrink(picture)
        print(f"{picture}: {picture.stat().st_size} bytes")
    if sum(picture.stat().st_size for picture in pictures) >= BUDGET:
        die(f"the pictures exceed {BUDGET} bytes in total: use smaller ones")


if __name__ == "__main__":
    main()

"""README.md and docs/: length, links, options, the file map and the pictures, checked against the
repository and the program's help."""
import re
import subprocess
from pathlib import Path

import pytest

from support import BINARIES, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
PROGRAM = re.compile(r"(?:^|/)train_gpt(?:\.(?:asan|clang|a64fx))?$")
SCRIPT = re.compile(r"(?:^|/)(?:scripts|test)/([\w-]+\.(?:sh|py|pjm))$")
GLOBAL = {"--help", "--version"}  # options of every command
PICTURE_BYTES = 300_000  # limit for all pictures together, to keep clones small


def help_text(*arguments):
    result = subprocess.run([BINARIES["native"], *arguments], capture_output=True, text=True)
    assert result.returncode == 0, (arguments, result.stderr)
    return result.stdout


@pytest.fixture(scope="module")
def options():
    """The options listed in the help of each command."""
    commands = re.findall(r"^  ([a-z]+)  ", help_text("help"), re.M)
    assert {"prepare", "train", "plan", "kernels"} <= set(commands)
    listed = {command: set(OPTION.findall(help_text("help", command)))
              for command in commands if command != "help"}
    assert all(listed.values()) and "--micro-batch" in listed["train"]
    return listed


@pytest.fixture(scope="module")
def known(options):
    """The options of each command and each script, by name; under "" the union of all."""
    known = {command: listed | GLOBAL for command, listed in options.items()}
    for folder in "scripts", "test":
        for path in (ROOT / folder).iterdir():
            if path.suffix in (".sh", ".py", ".pjm"):
                own = path == Path(__file__)  # contains options that must not exist
                known[path.name] = set() if own else set(OPTION.findall(path.read_text()))
    known["slurm.sh"] |= known["train"]
    known["test.sh"] |= known["conftest.py"]
    return known | {"": set().union(*known.values())}


def commands_of(text):
    """Splits each command in fenced blocks, with continuation lines joined, and each inline code
    span into words."""
    lines = "\n".join(FENCE.findall(text)).replace("\\\n", " ").splitlines()
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in lines + spans:
        for command in re.split(r"\s#\s", line)[0].split(" | "):
            if command.strip():
                yield command.split()


def unknown_options(text, known):
    """A list of (command or script, option) for each option that its command or script does not
    have. Options of other programs, such as pip, are not checked."""
    unknown = []
    for words in commands_of(text):
        taker = "" if words[0].startswith("--") else words[0]
        for i, word in enumerate(words):
            script = SCRIPT.search(word.strip('"$()'))
            if script:
                assert script[1] in known, f"{word} does not exist"
                taker = script[1]
            elif PROGRAM.search(word):
                taker = words[i + 1] if i + 1 < len(words) else ""
                assert taker in known or taker.startswith("--") or taker == "help", words
            elif OPTION.match(word) and taker in known and word.split("=")[0] not in known[taker]:
                unknown.append((taker, word))
    return unknown


def broken_links(page, text):
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
    return [target for target in targets
            if "://" not in target and not (page.parent / target.split("#")[0]).is_file()]


def test_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    start = text.encode()[:2500].decode(errors="ignore")
    assert "./scripts/quickstart.sh" in start and "./scripts/test.sh" in start


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    text = page.read_text()
    assert not broken_links(page, text)
    assert page.name != "README.md" or all(f"docs/{other.name}" in text for other in PAGES[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_unknown_option(page, known):
    assert not unknown_options(page.read_text(), known)


@pytest.mark.parametrize("option", sorted(GLOBAL))
def test_global_options(option):
    assert help_text(option) and help_text("train", option)


def test_every_option_is_documented(options):
    documented = set(OPTION.findall("\n".join(page.read_text() for page in PAGES[1:])))
    missing = set().union(*options.values()) - documented
    assert not missing, sorted(missing)


def test_checks_can_fail(known):
    """The checks above detect errors."""
    for text in ("```\n./train_gpt train --data x \\\n    --no-such 1\n```\n",
                 "```\nmpirun -n 4 ./train_gpt eval --lr 1\n```\n", "`--no-such N`", "`eval --lr`",
                 "```\nscripts/rank_map.py --no-such\n```\n", "`sbatch scripts/slurm.sh --no-such`",
                 "```\nscripts/two_hosts.sh --rate 1gbit 2 ./train_gpt train --rate 1\n```\n"):
        assert unknown_options(text, known), text
    text = "```\nOMP_NUM_THREADS=1 ./train_gpt train --lr 1  # --not an option\n```\nand `--seed S`"
    assert not unknown_options(text, known)
    assert broken_links(ROOT / "README.md", "[x](docs/no-such.md)")


def test_file_map():
    """Every file and folder in the file map or mentioned in the text exists."""
    readme = (ROOT / "README.md").read_text()
    file_map = FENCE.findall(readme[readme.index("## File map"):])[0]
    names = [line.split()[0] for line in file_map.splitlines()]
    assert len(names) >= 15
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing, missing
    named = {name for page in PAGES
             for name in re.findall(r"\b(?:scripts|test|docs)/[\w.-]*\w", page.read_text())}
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, missing


def test_pictures():
    """The pictures in the README are PNG files with alternative text, and small in total."""
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+\.png)\)", (ROOT / "README.md").read_text())
    assert len(pictures) >= 2
    files = [ROOT / name for _, name in pictures]
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in files)
    others = [path for path in (ROOT / "docs").rglob("*") if path.is_file() and path.suffix != ".md"]
    assert set(files) <= set(others)
    assert sum(path.stat().st_size for path in others) < PICTURE_BYTES

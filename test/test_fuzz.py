"""The fuzz targets of every reader (fuzz_readers.c) over the inputs that scripts/fuzz.sh kept, under
AddressSanitizer and UndefinedBehaviorSanitizer."""
import json
import os
import re
import subprocess
import tarfile

import pytest

import fuzz_seeds
from support import BUILD, ROOT, SANITIZERS

PACKED = ROOT / "test/fuzz"
FOUND = sorted((PACKED / "found").iterdir())
TARGETS = re.findall(r'^\s+\{"(\w+)",\s+run_', (ROOT / "test/fuzz_readers.c").read_text(), re.MULTILINE)


@pytest.fixture(scope="session", autouse=True)
def fuzzer():
    made = subprocess.run(["make", "-C", ROOT, "build/fuzz_readers"], capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr


def replay(target, *arguments):
    """Accepted and rejected inputs; any report of a sanitizer or a target fails the test."""
    result = subprocess.run([BUILD / "fuzz_readers", *arguments], capture_output=True, timeout=120,
                            env={**os.environ, **SANITIZERS, "FUZZ_TARGET": target})
    text = (result.stdout + result.stderr).decode(errors="replace")
    counts = re.search(rf"^{target}: (\d+) accepted, (\d+) rejected$", text, re.MULTILINE)
    assert result.returncode == 0 and counts, text[-6000:]
    return int(counts[1]), int(counts[2])


def test_targets():
    """Every target has seeds and a corpus, and there are none without a target."""
    listed = subprocess.run([BUILD / "fuzz_readers"], capture_output=True, text=True, check=True).stdout.split()
    assert listed == TARGETS and len(TARGETS) > 10
    assert {path.name.removesuffix(".tar.xz") for path in PACKED.glob("*.tar.xz")} == set(TARGETS)
    assert {name.removesuffix("_seeds") for name in vars(fuzz_seeds) if name.endswith("_seeds")} == set(TARGETS)
    assert FOUND and {path.name.split("-")[0] for path in FOUND} <= set(TARGETS)


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    for target in TARGETS:
        with tarfile.open(PACKED / f"{target}.tar.xz") as packed:
            packed.extractall(folder / target, filter="data")
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_corpus(target, corpora):
    """Valid and invalid inputs that reach all the code that fuzzing has reached."""
    inputs = list((corpora / target).iterdir())
    accepted, rejected = replay(target, "-runs=0", corpora / target)
    assert accepted > 0 and rejected > 0 and accepted + rejected >= len(inputs) > 1


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name)
def test_found(path):
    """Inputs that once caused a failure."""
    replay(path.name.split("-")[0], path)


@pytest.fixture(scope="session")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    fuzz_seeds.main(folder)
    return folder


def test_seeds_are_accepted(seeds):
    """Files written by the libraries that own the formats: a target that refuses them tests nothing."""
    for target in TARGETS:
        paths = sorted((seeds / target).iterdir())
        accepted, rejected = replay(target, *paths)  # libFuzzer runs some of them twice, to look for leaks
        assert accepted >= len(paths) and rejected == 0, target


def python_accepts(data):
    def refuse(word):
        raise ValueError(word)
    try:
        json.loads(data.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True


def test_json_accepts_what_python_does(corpora):
    """The corpus, one input at a time, so that a disagreement can be named. Only nesting depth is our own limit."""
    inputs = sorted((corpora / "json").iterdir())
    groups = {True: [], False: []}
    for path in inputs:
        data = path.read_bytes()
        if data.count(b"[") + data.count(b"{") <= 100:
            groups[python_accepts(data)].append(path)
    for expected, paths in groups.items():
        accepted, rejected = replay("json", *paths)
        assert len(paths) > 20 and (rejected if expected else accepted) == 0


@pytest.mark.full
@pytest.mark.parametrize("target", TARGETS)
def test_short_run(target, seeds, tmp_path):
    """New inputs, the same ones in each run of the tests; scripts/fuzz.sh is the long campaign."""
    assert sum(replay(target, "-runs=200", "-seed=1", f"-artifact_prefix={tmp_path}/", seeds / target)) >= 200

"""Fixtures: the build under test, and data and runs that are created once per session. Tests that
modify them make a copy first."""
import itertools
import json
import os
from pathlib import Path

import pytest

import support
from support import arguments, run

os.environ["OMP_NUM_THREADS"] = "1"  # PyTorch is faster with one thread for such small models
os.environ["OMP_WAIT_POLICY"] = "passive"  # threads that wait leave the cores to other tests


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests marked full (minutes)")
    parser.addoption("--summary", help="write the summary line for scripts/test.sh to this file")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: runs only with --full; the suite has a shorter version")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("full")]
    # The longest file first, so that no worker is left alone with it at the end.
    items.sort(key=lambda item: item.path.name != "test_kernels.py")


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--summary"):
        count = {key: len(terminalreporter.stats.get(key, [])) for key in ("passed", "failed", "error")}
        line = f"{count['passed']} passed, {count['failed'] + count['error']} failed\n"
        Path(config.getoption("--summary")).write_text(line)


@pytest.fixture(params=["native", "asan"])
def build(request):
    """The regular build, and the build with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return request.param


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with a sample of the real corpus: Japanese and English documents, about 100 KB of
    each file."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = sorted((support.BUILD / "corpus").glob("*.jsonl"))
    assert sources, "build/corpus is empty: run scripts/fetch_corpus.sh build/corpus"
    for source in sources:
        with open(source, encoding="utf-8") as file, open(folder / source.name, "w", encoding="utf-8") as out:
            size = 0
            for line in itertools.takewhile(lambda _: size < 100_000, file):
                document = json.loads(line)
                document["text"] = document["text"][:4000]
                out.write(json.dumps(document, ensure_ascii=False) + "\n")
                size += len(document["text"].encode())
    return folder


@pytest.fixture(scope="session")
def prepared(corpus, tmp_path_factory):
    """The sample corpus as prepared data, with a vocabulary size of 1,000."""
    out = tmp_path_factory.mktemp("prepared") / "data"
    run(arguments("prepare", input=corpus, out=out, vocab_size=1000, val_fraction=0.1))
    return out


VOCAB = 97


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A small Megatron pair without tokenizer or manifest: 3,000 token ids below VOCAB."""
    return support.write_pair(tmp_path_factory.mktemp("pair") / "tokens", support.random_documents(1, 3000, VOCAB))


TINY = dict(layers=2, heads=3, channels=24, seq_len=16, micro_batch=2, global_batch=4, lr=3e-3, min_lr=3e-4,
            warmup_steps=2, seed=5, eval_every=0)


@pytest.fixture(scope="session")
def tiny(pair):
    """tiny(out, steps=7) returns the arguments of a run that takes milliseconds."""
    def make(out, **options):
        return arguments("train", **{**TINY, "data": pair, "vocab_size": VOCAB, "out": out, "steps": 8,
                                     "save_every": 2, "keep": 100, **options})
    make.data = pair
    make.shape = {**TINY, "vocab_size": VOCAB}
    return make


@pytest.fixture(scope="session")
def finished(tiny, tmp_path_factory):
    """A finished run of 8 steps with checkpoints at steps 2, 4, 6 and 8. Copy it before changing
    it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    run(tiny(out))
    return out

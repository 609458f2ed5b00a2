"""The source code: no warnings from two compilers, self-contained headers, layered includes,
formatting, scripts that pass shellcheck."""
import graphlib
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from support import ROOT, read_log, run

# Layers, lowest first. A file includes files of lower layers or, without cycles, of its own layer.
ROOMS = [("util/",), ("kernels_ref.h", "kernels_sve.h", "kernels/"), ("mpi_utils.h", "parallel/"),
         ("tokenizer.h", "tokenizers/"), ("dataloader.h", "shards/"), ("model/",), ("run/",), ("plan/",), ("corpus/",),
         ("trace/",), ("report/",), ("train_gpt.c",)]
SOURCES = sorted(str(path.relative_to(ROOT)) for pattern in ("*.[ch]", "*/*.[ch]", "test/*/*.h") for path in ROOT.glob(pattern)
                 if not str(path.relative_to(ROOT)).startswith("build/"))
PROGRAM = [name for name in SOURCES if not name.startswith("test/")]
HEADERS = [name for name in PROGRAM if name.endswith(".h")]
COMPILERS = {"gcc": ["mpicc"], "clang": ["mpicc", "-cc=clang"]}
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-I", str(ROOT)]


def succeeds(command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


def repository_files():
    """The files of the repository: tracked by git, or untracked and not ignored."""
    listed = succeeds(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("room", range(len(ROOMS) - 1))
def test_headers_stand_alone(room, tmp_path):
    """Every header includes what it uses, and may be included twice."""
    def check(header):
        source = tmp_path / (header.replace("/", "_") + "c")
        source.write_text(f'#include "{header}"\n#include "{header}"\nint main(void) {{ return 0; }}\n')
        succeeds([*COMPILERS["gcc"], *FLAGS, "-O0", "-fsyntax-only", source])

    headers = [header for header in HEADERS if room_of(header) == room]
    assert headers
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, headers))


@pytest.mark.parametrize("compiler", COMPILERS)
def test_headers_in_two_files(compiler, tmp_path):
    """Two files of one program include all headers, in opposite orders."""
    lines = [f'#include "{header}"\n' for header in HEADERS]
    (tmp_path / "one.c").write_text("".join(lines) + "int main(void) { return 0; }\n")
    (tmp_path / "two.c").write_text("".join(reversed(lines)))
    succeeds([*COMPILERS[compiler], *FLAGS, "-O0", "one.c", "two.c", "-o", "both", "-lm"], cwd=tmp_path)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_program_has_no_warnings(compiler):
    """All warnings are enabled here, whatever flags the Makefile uses. Those that need the whole
    compiler are errors in its builds, with which this suite runs."""
    succeeds([*COMPILERS[compiler], *FLAGS, '-DGIT_REVISION="x"', '-DCOMPILER_FLAGS="x"', "-fsyntax-only",
              "-Wno-unused-command-line-argument", ROOT / "train_gpt.c"])
    for target in "train_gpt", "train_gpt.clang", "train_gpt.asan", "train_gpt.a64fx":
        assert "-Wall -Wextra -Werror" in succeeds(["make", "-Bn", target], cwd=ROOT)


def test_clang_build_trains(tiny, finished, tmp_path):
    """A clang build rounds differently but gives the same losses within 1e-5."""
    run(tiny(tmp_path / "run"), build="clang")
    assert np.allclose(read_log(tmp_path / "run").column("loss"), read_log(finished).column("loss"), rtol=0, atol=1e-5)


def room_of(name):
    return next(i for i, room in enumerate(ROOMS) for place in room
                if name == place or (place.endswith("/") and name.startswith(place)))


def includes(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line.split('"')[1] for line in lines if line.startswith('#include "')]


def test_includes_go_downwards():
    """Every source file belongs to a layer and includes only files of lower layers or of its own,
    and there are no include cycles."""
    for name in PROGRAM:
        for included in includes(name):
            assert (ROOT / included).is_file(), f"{name}: {included} is not relative to the root"
            assert room_of(included) <= room_of(name), f"{name} includes {included} of a higher layer"
    graphlib.TopologicalSorter({name: includes(name) for name in PROGRAM}).prepare()  # raises CycleError


def without_comments(text):
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.S)


def test_private_names_are_used_in_one_file():
    """A name that ends in _ is private to its file."""
    homes = {}
    for name in SOURCES:
        for word in set(re.findall(r"\b[A-Za-z]\w*[A-Za-z0-9]_\b", without_comments((ROOT / name).read_text()))):
            homes.setdefault(word, []).append(name)
    shared = {word: files for word, files in homes.items() if len(files) > 1}
    assert not shared, "\n".join(f"{word}: {', '.join(files)}" for word, files in sorted(shared.items()))


def test_files_are_short():
    for name in SOURCES:
        lines = (ROOT / name).read_text().splitlines()
        assert len(lines) <= (1600 if name == "train_gpt.c" else 1200), (name, len(lines))
        long = [i + 1 for i, line in enumerate(lines) if len(line) > 100]
        assert not long, (name, long)


def test_no_flags_that_hide_nan():
    for name in "Makefile", "scripts/test.sh", "scripts/quickstart.sh":
        text = "\n".join(line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#"))
        assert not any(flag in text for flag in ("-Ofast", "fast-math", "finite-math")), name


def test_no_contraction(tmp_path):
    """With the flags of the Makefile, a * b + c is rounded twice, as the Makefile says."""
    makefile = (ROOT / "Makefile").read_text()
    flags = re.search(r"^CFLAGS \?= (.*)$", makefile, re.M)[1].split()
    (tmp_path / "fma.c").write_text("""
        #include <math.h>
        volatile double a = 1 + 0x1p-30, b = 1 - 0x1p-30, c = -1;
        int main(void) { return a * b + c == 0 && fma(a, b, c) != 0 ? 0 : 1; }
    """)
    succeeds(["gcc", *flags, "-march=native", "fma.c", "-o", "fma", "-lm"], cwd=tmp_path)
    succeeds([tmp_path / "fma"])
    assert "rounded twice" in makefile and "joins a * b + c into one rounding" not in makefile


def test_format():
    succeeds(["clang-format", "--dry-run", "-Werror", *SOURCES], cwd=ROOT)


def test_scripts():
    scripts = [path for path in repository_files()
               if path.suffix == ".sh" or path.read_bytes()[:32].startswith((b"#!/usr/bin/env bash", b"#!/bin/"))]
    assert len(scripts) >= 4
    succeeds(["shellcheck", *scripts])
    assert all(os.access(path, os.X_OK) for path in scripts)


def test_no_registry_hosts():
    """No file names a package registry: package managers use the registry configured on the
    machine."""
    hosts = ["py" + "pi.org", "python" + "hosted", "deb.deb" + "ian.org", "registry." + "npmjs",
             "download.py" + "torch"]
    for path in repository_files():
        text = path.read_text(errors="replace")
        assert not [host for host in hosts if host in text], path


def test_readme_names_every_file():
    readme = (ROOT / "README.md").read_text()
    names = {path.relative_to(ROOT).parts[0] for path in repository_files()} - {"README.md"}
    missing = [name for name in names if not name.startswith(".") and name not in readme]
    assert not missing, missing
    commands = [line.strip() for line in readme.splitlines() if line.strip().startswith("./scripts/")]
    assert commands[0].startswith("./scripts/quickstart.sh") and commands[1].startswith("./scripts/test.sh")

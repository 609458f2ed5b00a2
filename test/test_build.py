"""The source itself: clean with two compilers, headers that stand alone, one format, scripts that shellcheck passes."""
import os
import subprocess

import numpy as np
import pytest

from support import ROOT, read_log, run

HEADERS = sorted(path.name for path in ROOT.glob("*.h"))
SOURCES = sorted(str(path.relative_to(ROOT)) for pattern in ("*.[ch]", "test/*.[ch]") for path in ROOT.glob(pattern))
COMPILERS = {"gcc": ["mpicc"], "clang": ["mpicc", "-cc=clang"]}
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-fopenmp", "-I", str(ROOT)]


def succeeds(command, **options):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}"
    return result.stdout


def repository_files():
    """The files of the repository: those that git has or would take."""
    listed = succeeds(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def test_headers_are_there():
    assert {"json.h", "kernels_ref.h", "tokenizer.h", "dataloader.h", "checkpoint.h", "mpi_utils.h"} <= set(HEADERS)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("header", HEADERS)
def test_header_stands_alone(header, compiler, tmp_path):
    """Alone in a file, twice in a file, and in two files of one program."""
    (tmp_path / "one.c").write_text(f'#include "{header}"\n#include "{header}"\nint main(void) {{ return 0; }}\n')
    (tmp_path / "two.c").write_text(f'#include "{header}"\n')
    succeeds([*COMPILERS[compiler], *FLAGS, "one.c", "two.c", "-o", "both", "-lm"], cwd=tmp_path)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_program_has_no_warnings(compiler, tmp_path):
    """The Makefile's own flags could lose one of these; here they stand."""
    succeeds([*COMPILERS[compiler], *FLAGS, '-DGIT_REVISION="x"', '-DCOMPILER_FLAGS="x"', ROOT / "train_gpt.c", "-o",
              tmp_path / "train_gpt", "-lm"])


def test_clang_build_trains(tiny, finished, tmp_path):
    """Other roundings, the same training."""
    run(tiny(tmp_path / "run"), build="clang")
    assert np.allclose(read_log(tmp_path / "run").column("loss"), read_log(finished).column("loss"), rtol=0, atol=1e-5)


def test_layers():
    """A header includes only headers below it (design, 2)."""
    order = ["json.h", "kernels_ref.h", "kernels_sve.h", "sve_shim.h", "suffix_array.h", "tokenizer.h", "tokenizer_train.h",
             "dataloader.h", "kernels_check.h", "trace.h", "collect.h", "checkpoint.h", "mpi_utils.h", "plan.h",
             "prepare.h", "report.h"]
    for header in HEADERS:
        for line in (ROOT / header).read_text().splitlines():
            if line.startswith('#include "'):
                included = line.split('"')[1]
                assert header.startswith("kernels_") or order.index(included) < order.index(header), (header, included)


def test_no_flags_that_hide_nan():
    for name in "Makefile", "scripts/test.sh", "scripts/quickstart.sh":
        text = "\n".join(line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#"))
        assert not any(flag in text for flag in ("-Ofast", "fast-math", "finite-math")), name


def test_format():
    succeeds(["clang-format", "--dry-run", "-Werror", *SOURCES], cwd=ROOT)


def test_scripts():
    scripts = [path for path in repository_files()
               if path.suffix == ".sh" or path.read_bytes()[:32].startswith((b"#!/usr/bin/env bash", b"#!/bin/"))]
    assert len(scripts) >= 4
    succeeds(["shellcheck", *scripts])
    assert all(os.access(path, os.X_OK) for path in scripts)


def test_no_host_of_a_registry():
    """Packages come through the clients as a machine has them set up; no file names where from."""
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

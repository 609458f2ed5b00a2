"""scripts/bench.py: the reference sgemm must be the fastest one that computes correct results."""
import importlib.util
import re
import subprocess
import sys

from support import ROOT

spec = importlib.util.spec_from_file_location("bench", ROOT / "scripts/bench.py")
bench = importlib.util.module_from_spec(spec)
sys.modules["bench"] = bench
spec.loader.exec_module(bench)

NOTHING = "void cblas_sgemm() {}"  # faster than any real implementation


def test_fastest_sgemm_is_chosen(capsys):
    """The first library found is not necessarily the fastest: Debian's OpenBLAS may use SSE kernels
    where the right core type would be four times as fast."""
    rates = {"": bench.Rate(65e9, 150e9), "SkylakeX": bench.Rate(137e9, 150e9), "Haswell": "ended by signal 4"}
    candidates = bench.sgemm_candidates([("Debian's OpenBLAS", "libopenblas.so.0")], ["SkylakeX", "Haswell"])
    best = bench.fastest_sgemm(candidates, lambda candidate: rates[candidate.core_type])
    assert best.core_type == "SkylakeX" and best.path == "libopenblas.so.0"
    out = capsys.readouterr().out
    assert "Haswell: skipped: ended by signal 4" in out
    assert ("fastest sgemm: Debian's OpenBLAS, OPENBLAS_CORETYPE=SkylakeX: 137.0 GFLOP/s, 91.3 % of the measured FMA peak, "
            "150.0 GFLOP/s") in out


def test_no_sgemm_library(capsys):
    assert bench.fastest_sgemm([], None) is None
    assert "skipped" in capsys.readouterr().out


def test_core_types_match_the_cpu():
    assert bench.core_types({"avx2", "fma"}) == ["Zen", "Haswell"]
    assert bench.core_types({"avx2", "avx512f"}) == ["SkylakeX", "Zen", "Haswell"]
    assert bench.core_types({"sse2"}, "Prescott") == ["Prescott"]
    assert [str(c) for c in bench.sgemm_candidates([("MKL", "libmkl_rt.so.3")], ["Zen"])] == ["MKL"]


def test_choice_on_this_machine(tmp_path):
    """The fastest installed library is chosen; a library that computes nothing is rejected."""
    (tmp_path / "nothing.c").write_text(NOTHING)
    subprocess.run(["gcc", "-shared", "-fPIC", "nothing.c", "-o", "nothing.so"], cwd=tmp_path, check=True)
    result = subprocess.run([sys.executable, ROOT / "scripts/bench.py", "sgemm", "--threads", "1", "--library",
                             tmp_path / "nothing.so", tmp_path / "missing.so"], capture_output=True, text=True, check=True,
                            timeout=300)
    assert re.search(r"nothing\.so: skipped: wrong results", result.stdout), result.stdout
    assert re.search(r"missing\.so: skipped: .*No such file", result.stdout), result.stdout
    measured = {name: float(rate) for name, rate in re.findall(r"^sgemm  (.*): ([0-9.]+) GFLOP/s$", result.stdout, re.M)}
    chosen = re.search(r"^fastest sgemm: (.*): [0-9.]+ GFLOP/s, [0-9.]+ % of the measured FMA peak", result.stdout, re.M)
    assert any("numpy" in name for name in measured), result.stdout
    assert measured[chosen.group(1)] == max(measured.values())

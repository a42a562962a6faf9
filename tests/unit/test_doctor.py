"""The doctor's verdicts, on machines made up here."""

import collections
import subprocess
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from sedflow import doctor


@pytest.fixture
def installed(monkeypatch):
    """Pretend that other versions are installed."""
    versions = {}
    real = metadata.version

    def version(name):
        if versions.get(name, "") is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    return versions


def test_sources_that_were_never_installed_are_one_problem_with_a_cure(installed):
    installed["sedflow"] = None
    (finding,) = doctor.installation()
    assert (finding.subject, finding.verdict) == ("sedflow", "problem") and "make install" in finding.cure


def test_every_dependency_of_the_project_gets_a_verdict_and_this_environment_passes():
    findings = doctor.installation()
    asked = {finding.subject for finding in findings}
    assert {
        "Python",
        "torch",
        "lightning",
        "scaper",
        "snakemake",
        "dvc",
        "pytest",
        "torch pair",
        "sox",
        "libsox",
    } <= asked
    assert [finding for finding in findings if finding.verdict == "problem"] == []
    assert doctor.exit_code(findings) == 0


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_a_malicious_lightning_is_named_and_never_imported(installed, monkeypatch, version):
    installed["lightning"] = version
    monkeypatch.setattr(doctor, "import_error", lambda module: pytest.fail(f"imported {module}"))
    finding = doctor.dependency(Requirement("lightning>=2.6.4"), ["lightning"])
    assert finding.verdict == "problem" and "MALICIOUS" in finding.detail and "password" in finding.cure


def test_a_version_outside_the_range_is_a_problem_with_both_named(installed):
    installed["pandas"] = "3.1.1"
    finding = doctor.dependency(Requirement("pandas>=2.2,<3"), ["pandas"])
    assert finding.verdict == "problem" and "3.1.1" in finding.detail and "<3" in finding.detail and finding.cure


@pytest.mark.parametrize("marker, verdict", [("", "problem"), ('; extra == "onnx"', "note")])
def test_only_a_required_package_is_a_problem_when_missing(installed, marker, verdict):
    installed["onnx"] = None
    finding = doctor.dependency(Requirement("onnx>=1.17" + marker), [])
    assert finding.verdict == verdict and "not installed" in finding.detail
    assert doctor.exit_code([finding]) == int(verdict == "problem")


def test_a_library_that_breaks_at_import_is_reported_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "breaks_at_import.py").write_text(
        "print('noise')\nraise OSError('libc10_cuda.so: cannot open\\nmore')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.import_error("breaks_at_import") == "OSError: libc10_cuda.so: cannot open"


def test_torch_and_torchaudio_of_two_releases_are_a_problem(installed):
    installed.update(torch="2.13.0+cpu", torchaudio="2.11.0")
    (finding,) = doctor.torch_pair()
    assert finding.verdict == "problem" and "2.13.0" in finding.detail and "2.11.0" in finding.detail


def test_a_missing_sox_names_both_ways_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    sox = next(iter(doctor.system_libraries()))
    assert sox.verdict == "problem" and "apt-get" in sox.cure and "conda" in sox.cure


@pytest.mark.parametrize("free_gib, verdict", [(0.5, "problem"), (5, "note"), (50, "ok")])
def test_little_free_disk_is_seen_before_it_runs_out(monkeypatch, free_gib, verdict):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(0, 0, free_gib * doctor.GIB))
    (finding,) = doctor.disk()
    assert finding.verdict == verdict and bool(finding.cure) == (verdict != "ok")


@pytest.mark.parametrize("total_gib, verdict", [(0.0625, "note"), (8, "ok")])
def test_a_container_with_little_shared_memory_is_told_how_to_get_more(monkeypatch, tmp_path, total_gib, verdict):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(total_gib * doctor.GIB, 0, 0))
    (finding,) = doctor.shared_memory(tmp_path)
    assert finding.verdict == verdict and ("--shm-size=8g" in finding.cure) == (verdict == "note")
    assert list(doctor.shared_memory(tmp_path / "nowhere")) == []


def test_the_mirror_is_listed_and_a_wrong_one_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "esc10").mkdir()
    (tmp_path / "esc10" / "a.ogg").touch()
    verdicts = {}
    for value in ("", str(tmp_path), str(tmp_path / "nowhere")):
        monkeypatch.setenv("SEDFLOW_MIRROR", value)
        (verdicts[value],) = doctor.mirror()
    assert [finding.verdict for finding in verdicts.values()] == ["note", "ok", "problem"]
    assert "esc10 (1 files)" in verdicts[str(tmp_path)].detail


def test_git_and_dvc_are_looked_at_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert [next(iter(part())).verdict for part in (doctor.git, doctor.dvc)] == ["note", "note"]
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text('[core]\n    autostage = true\n[cache]\n    type = "hardlink,copy"\n')
    subprocess.run(
        "git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first", shell=True, check=True
    )
    assert [next(iter(part())).verdict for part in (doctor.git, doctor.dvc)] == ["ok", "ok"]
    (tmp_path / ".dvc" / "config").write_text("[cache]\ntype = copy\n")
    (finding,) = doctor.dvc()
    assert finding.verdict == "note" and finding.cure == "dvc config cache.type hardlink,copy"


def test_the_whole_table_prints(capsys):
    parts = [
        *doctor.gpu(),
        *doctor.processor(),
        *doctor.memory(),
        doctor.Finding("odd [red]name", "problem", "a[b]", "c"),
    ]
    doctor.show(parts)
    printed = capsys.readouterr().out
    assert "odd [red]name" in printed and "a[b]" in printed and "cores" in printed and "GPU" in printed

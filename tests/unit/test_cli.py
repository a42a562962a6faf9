"""The command line: quick to help, thin, and clear about errors."""

import ast
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer

from sedflow import cli, steps
from sedflow.events import LabelError, read_clips
from sedflow.files import explain


def run(*words, **environment):
    command = [sys.executable, "-m", "sedflow.cli", *map(str, words)]
    kept = {name: value for name, value in os.environ.items() if name != "SEDFLOW_DEBUG"}
    return subprocess.run(command, capture_output=True, text=True, env={**kept, **environment})


def test_help_lists_every_command_and_imports_nothing_heavy():
    code = (
        "import sys; from sedflow import cli\n"
        "try: cli.commands(['--help'])\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'numpy', 'pandas', 'pydantic', 'rich', 'yaml'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "heavy: []" in output
    for command in cli.commands.registered_commands + steps.steps.registered_commands:
        assert (command.name or command.callback.__name__).replace("_", "-") in output


def test_commands_are_thin():
    files = (cli.__file__, steps.__file__)
    for node in [node for file in files for node in ast.parse(Path(file).read_text()).body]:
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 30, node.name


def test_every_import_of_ours_stands_in_the_command_that_needs_it():
    for file in (cli.__file__, steps.__file__):
        tree = ast.parse(Path(file).read_text())
        modules = [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert {module for module in modules if module.startswith("sedflow")} <= {"sedflow.steps"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["detect", "nowhere.wav", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["evaluate", "nowhere.parquet", "truth.tsv", "durations.tsv"], "nowhere.parquet"),
        (["score", "nowhere", "--checkpoint", "c.safetensors", "--out", "s"], "nowhere"),
        (
            ["score", "one.wav", "--checkpoint", "c.safetensors", "--out", "s"],
            "one.wav: this is a file, but `score` reads folders",
        ),
        (["detect", ".", "--checkpoint", "c.safetensors"], "this is a folder, but `detect` reads one recording"),
        (["download", '{"name": "dmeo"}', "--out", "raw"], "did you mean 'demo'"),
        (["weights", "mn05_as", "--out", "w.pt"], "mn05_as"),
        (["inspect", "nowhere.safetensors"], "nowhere.safetensors"),
        (["summary", "nowhere"], "make it with `snakemake nowhere`"),
    ],
)
def test_a_foreseen_error_is_one_message_without_a_traceback(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    Path("one.wav").touch()
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert "Traceback" not in done.stderr


def test_debugging_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
    assert "Traceback" in run("inspect", "nowhere.safetensors", SEDFLOW_DEBUG="1").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "s", "t.tsv", "--intervals", "-1"], "--intervals"),
        (["compare", "a", "b", "--draws", "0"], "--draws"),
        (["detect", "a.wav", "--checkpoint", "c", "--format", "picture", "--out", "a.txt"], ".png, .svg, .pdf"),
        (["detect", "a.wav", "--checkpoint", "c", "--format", "json"], "json needs --out"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(words, said):
    done = run(*words)
    assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["collect", "{name: demo", "manifests"], "'{name: demo' is not valid JSON"),
        (["collect", "[1]", "manifests"], "'[1]' is not a JSON object"),
        (["tune", "s", "--settings", '{"postprocess": {}}', "--manifests", "m", "--out", "o"], "lacks ['objective']"),
    ],
)
def test_settings_that_are_no_json_or_lack_something_are_refused(words, said):
    done = run(*words)
    assert done.returncode == 2 and said in done.stderr


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "taken").touch()
    for out, said in ((tmp_path, "is a folder; name a file"), (tmp_path / "taken/m.json", "taken is a file where")):
        done = run("evaluate", "s", "t.tsv", "--out", out)
        assert done.returncode == 2 and said in done.stderr


@pytest.mark.parametrize("format", ["tsv", "audacity", "raven"])
def test_label_files_of_several_recordings_go_to_one_folder_if_their_format_has_one(tmp_path, monkeypatch, format):
    monkeypatch.setattr("sedflow.inference.detect", lambda audio, checkpoint: [])
    said = pytest.raises(typer.BadParameter, match="is a folder; name a file") if format == "tsv" else nullcontext()
    for name in ("one.wav", "two.wav"):
        with said:
            words = ["detect", name, "--checkpoint", "c", "--format", format, "--out", str(tmp_path)]
            cli.commands(words, standalone_mode=False)
    assert len(list(tmp_path.glob("*.txt"))) == (0 if format == "tsv" else 2)


def test_detections_do_not_replace_their_recording(tmp_path, monkeypatch):
    monkeypatch.setattr("sedflow.inference.detect", lambda audio, checkpoint: [])
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    with pytest.raises(LabelError, match="this is an audio file"):
        words = ["detect", str(tmp_path / "song.wav"), "--checkpoint", "c", "--out", str(tmp_path / "song.wav")]
        cli.commands(words, standalone_mode=False)
    assert (tmp_path / "song.wav").read_bytes() == b"RIFF"


def test_a_clip_table_that_is_not_there_is_named_with_the_cure(tmp_path):
    with pytest.raises(FileNotFoundError) as nowhere:
        read_clips(tmp_path / "nope.tsv")
    said = f"{tmp_path}/nope.tsv: no such file or folder; check the path, or make the file first"
    assert explain(nowhere.value) == said


def test_a_system_that_is_not_there_is_told_before_anything_is_installed():
    done = subprocess.run(
        ["make", "run", "SYSTEM=esc11"], cwd=Path(cli.__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 2 and "esc10" in done.stderr and not done.stdout

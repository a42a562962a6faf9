"""A wrong setting stops the workflow before it starts, in one line, within seconds."""

import pytest

PAGE = "workflow/systems/demo.yaml"


@pytest.mark.parametrize(
    ("file", "path", "value", "said"),
    [
        (
            PAGE,
            ["stages", "frozen", "stesp"],
            9,
            "demo.yaml: stages.frozen.stesp: unknown setting; did you mean 'steps'?",
        ),
        (
            PAGE,
            ["detector", "sequence", "widht"],
            9,
            "detector.sequence.widht: bigru has no such setting; did you mean 'width'?",
        ),
        (
            PAGE,
            ["postprocess", "name"],
            "median",
            "postprocess.name: there is no 'median'; did you mean 'median_filter'?",
        ),
        (PAGE, ["corpora", 0, "wekk"], 3, "corpora.wekk: demo has no such setting; did you mean 'weak'?"),
        (PAGE, ["detector", "encoders", 0, "weights"], "mn04", "no weights 'mn04'; did you mean 'mn04_as'?"),
        ("params.yaml", ["system"], "dmeo", "there is no system 'dmeo'"),
        ("params.yaml", ["sedes"], [1], "params.yaml: sedes: unknown setting; did you mean 'seeds'?"),
        ("params.yaml", ["corpora"], ["esc10"], "params.yaml: corpora: ['esc10'] does not match"),
    ],
)
def test_a_typo_is_named_with_file_key_and_nearest_key(pristine, tmp_path, file, path, value, said):
    clone = pristine.copy(tmp_path / "clone")
    clone.change(file, path, value)
    output = clone("snakemake", "-n", check=False)
    assert said in output
    assert "Traceback" not in output and "Error" not in output


def test_what_dvc_follows_has_to_be_written_out(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    page = clone.path / PAGE
    page.write_text("\n".join(line for line in page.read_text().split("\n") if "feature_shards" not in line))
    assert "write out `feature_shards: 2`" in clone("snakemake", "-n", check=False)


def test_a_broken_page_hurts_only_who_asks_for_it(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    (clone.path / "workflow/systems/esc10.yaml").write_text("titel: no such key\n")
    clone("snakemake", "-n", "demo")
    assert "esc10.yaml: titel" in clone("snakemake", "-n", "esc10", check=False)


def test_two_systems_cannot_want_one_corpus_folder_with_different_settings(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    (clone.path / "workflow/systems/other.yaml").write_text((clone.path / PAGE).read_text())
    clone.change("workflow/systems/other.yaml", ["corpora", 0, "seed"], 7)
    assert "with `as: demo_2`" in clone("snakemake", "-n", "other", check=False)
    clone.change("workflow/systems/other.yaml", ["corpora", 0, "as"], "demo_2")
    assert "data/manifests/demo_2/clips.tsv" in clone("snakemake", "-n", "other")


def test_planning_imports_neither_torch_nor_lightning(pristine, tmp_path):
    clone = pristine.copy(tmp_path / "clone")
    with (clone.path / "Snakefile").open("a") as snakefile:
        snakefile.write(
            "\nimport sys\n\nprint('heavy:', sorted({'torch', 'lightning', 'librosa'} & set(sys.modules)))\n"
        )
    assert "heavy: []" in clone("snakemake", "-n")

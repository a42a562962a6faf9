"""Scores on disk and in memory."""

import numpy as np
import pytest

from sedflow.scores import ScoreColumns, ScoreError, Scores, load_scores, save_scores


def scores_of(frames=5, offset=0.0, classes=("dog", "cat")):
    values = np.linspace(0, 1, frames * len(classes), dtype=np.float32).reshape(frames, len(classes)) + offset
    return Scores(values, np.arange(frames + 1) * 0.04, classes)


@pytest.mark.parametrize("name", ["set.parquet", "folder"])
def test_scores_survive_a_round_trip(tmp_path, name):
    scores = {"a": scores_of(), "b": scores_of(7, -3.0)}
    save_scores(tmp_path / name, scores)
    read = load_scores(tmp_path / name)
    assert read.keys() == scores.keys()
    for clip in scores:
        np.testing.assert_allclose(read[clip].values, scores[clip].values, rtol=1e-6)
        np.testing.assert_allclose(read[clip].edges, scores[clip].edges)
        assert read[clip].classes == scores[clip].classes


@pytest.mark.parametrize("name", ["set.parquet", "folder"])
def test_class_names_are_read_with_composed_letters_as_labels_are(tmp_path, name):
    save_scores(tmp_path / name, {"a": scores_of(classes=("Klo\u0308te", "cat"))})
    assert load_scores(tmp_path / name)["a"].classes == ("Kl\u00f6te", "cat")


def test_the_real_dcase_folder_is_read(eval_reference_dir, tmp_path):
    scores = load_scores(eval_reference_dir / "scores")
    save_scores(tmp_path / "set.parquet", scores)
    assert len(scores) == 20
    assert load_scores(tmp_path / "set.parquet")["3u1ue_s4"].values.shape == (156, 10)


def test_equal_scores_make_equal_bytes(tmp_path):
    for name in ("one", "two"):
        save_scores(tmp_path / f"{name}.parquet", {"a": scores_of()})
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_minus_infinity_means_never_while_nan_and_infinity_are_refused(tmp_path):
    values = scores_of().values.copy()
    values[2, 1] = -np.inf
    save_scores(tmp_path / "set.parquet", {"a": scores_of().with_values(values)})
    assert load_scores(tmp_path / "set.parquet")["a"].values[2, 1] == -np.inf
    for value, said in (
        (np.nan, r"nan for 'cat' at 0\.080 s; score the clip again"),
        (np.inf, r"inf for 'cat' at 0\.080 s; write prob"),
    ):
        values[2, 1] = value
        for name in ("set.parquet", "folder"):
            save_scores(tmp_path / name, {"a": scores_of().with_values(values)})
            with pytest.raises(ScoreError, match=said):
                load_scores(tmp_path / name)
        with pytest.raises(ScoreError, match=f"set.parquet, clip a: {said}"):
            ScoreColumns(tmp_path / "set.parquet").column("cat")


def test_gaps_between_frames_are_named(tmp_path):
    table = scores_of().table()
    table.loc[3, "onset"] += 0.01
    table.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    with pytest.raises(ScoreError, match=r"a\.tsv: frame 3"):
        load_scores(tmp_path)


def test_a_gap_is_as_wide_late_in_a_recording_as_early(tmp_path):
    table = scores_of().table()
    table[["onset", "offset"]] += 10_000
    table.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    assert load_scores(tmp_path)["a"].edges[0] == 10_000
    table.loc[3, "onset"] += 0.03
    table.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    with pytest.raises(ScoreError, match=r"a\.tsv: frame 3"):
        load_scores(tmp_path)


def test_a_write_that_breaks_off_leaves_the_old_scores_of_a_clip(tmp_path, monkeypatch):
    save_scores(tmp_path, {"a": scores_of()})
    table = type(scores_of().table())
    whole = table.to_csv

    def broken(self, path, **how):
        whole(self.head(1), path, **how)
        raise OSError("no space left")

    monkeypatch.setattr(table, "to_csv", broken)
    with pytest.raises(OSError, match="no space"):
        save_scores(tmp_path, {"a": scores_of(offset=1.0)})
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]
    np.testing.assert_allclose(load_scores(tmp_path)["a"].values, scores_of().values)


def test_scores_of_other_clips_are_not_written_beside_those_of_a_folder(tmp_path):
    save_scores(tmp_path, {"a": scores_of()})
    with pytest.raises(ScoreError, match=r"1 \.tsv files of other clips are here, e\.g\. \['a\.tsv'\]"):
        save_scores(tmp_path, {"b": scores_of()})
    assert list(load_scores(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    "content",
    [
        "filename\tonset\toffset\tevent_label\na.wav\t0\t1\tdog\n",
        "onset\toffset\tevent_label\n0.5\t1.5\tdog\n",  # what `detect` prints
        "onset\toffset\tevent_label\n",
        "notes of mine\n",
        "",
    ],
)
def test_a_file_that_holds_no_scores_is_never_replaced_by_scores(tmp_path, content):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(ScoreError, match=r"a\.tsv: this is not a score file.*name another path"):
        save_scores(tmp_path, {"a": scores_of()})
    assert (tmp_path / "a.tsv").read_text() == content


@pytest.mark.parametrize("content", ["notes of mine", "", "another table"])
def test_a_parquet_file_that_holds_no_scores_is_never_replaced_by_scores(tmp_path, content):
    file = tmp_path / "set.parquet"
    file.write_text(content)
    if content == "another table":
        scores_of().table().to_parquet(file)  # without file names
    before = file.read_bytes()
    with pytest.raises(ScoreError, match=r"set\.parquet: this is not a score file.*name another path"):
        save_scores(file, {"a": scores_of()})
    assert file.read_bytes() == before


def test_scores_of_the_same_clips_are_replaced(tmp_path, eval_reference_dir):
    for offset in (0.0, 1.0):
        save_scores(tmp_path, {"a": scores_of(offset=offset)})
        save_scores(tmp_path / "set.parquet", {"a": scores_of(offset=offset)})
    np.testing.assert_allclose(load_scores(tmp_path)["a"].values, scores_of(offset=1.0).values)
    np.testing.assert_allclose(load_scores(tmp_path / "set.parquet")["a"].values, scores_of(offset=1.0).values)
    theirs = (eval_reference_dir / "scores/3u1ue_s4.tsv").read_bytes()
    (tmp_path / "a.tsv").write_bytes(theirs)
    save_scores(tmp_path, {"a": scores_of()})
    assert (tmp_path / "a.tsv").read_bytes() != theirs


@pytest.mark.parametrize("broken", ["nothing there", "not parquet", "empty folder", "other columns"])
def test_files_that_hold_no_scores_are_named(tmp_path, broken):
    path = tmp_path / "set.parquet"
    if broken == "not parquet":
        path.write_text("hello")
    elif broken == "empty folder":
        path.mkdir()
    elif broken == "other columns":
        path = tmp_path
        (tmp_path / "a.tsv").write_text("begin\tend\n0\t1\n")
    with pytest.raises(ScoreError, match=str(tmp_path)):
        load_scores(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not a table of numbers"),
        ("onset\toffset\tdog\n0\t1\thigh\n", "not a table of numbers .*high"),
        ("onset\toffset\tdog\n0\t1\t1\n1\t2\t1\t1\n", "not a table of numbers .*line 3"),
        ("onset\toffset\tdog\tdog\n0\t1\t1\t1\n", "appears twice in the header"),
    ],
)
def test_tables_that_are_no_scores_are_named(tmp_path, content, said):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(ScoreError, match=rf"a\.tsv: .*{said}"):
        load_scores(tmp_path)


def test_text_in_a_score_column_is_named(tmp_path):
    table = scores_of().table().assign(filename="a", dog="loud")
    table.to_parquet(tmp_path / "set.parquet")
    with pytest.raises(ScoreError, match=r"\['dog'\] hold text"):
        load_scores(tmp_path / "set.parquet")


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ScoreError, match="do not fit"):
        Scores(np.zeros((5, 3)), np.arange(6.0), ("dog", "cat"))
    with pytest.raises(ScoreError, match="need 6 edges"):
        Scores(np.zeros((5, 2)), np.arange(5.0), ("dog", "cat"))

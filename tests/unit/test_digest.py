"""The digest of the code that a command runs."""

import pytest

from sedflow import digest


def names(command, used=()):
    return {str(path.relative_to(digest.PACKAGE)) for path in digest.modules(command, used)}


def test_a_command_depends_on_what_it_imports_directly_and_indirectly():
    assert {"train.py", "learner.py", "detector.py", "frames.py"} <= names("train")


def test_a_command_depends_on_the_plugins_its_settings_name_and_on_no_others():
    found = names("score", [("encoders", "mobilenet"), ("sequence", "bigru")])
    assert {"encoders/mobilenet.py", "encoders/__init__.py", "sequence/bigru.py", "frontend.py"} <= found
    assert "sequence/transformer.py" not in found


def test_training_does_not_depend_on_what_fetches_files():
    assert not {"download.py", "unpack.py", "digest.py"} & names("train")


def test_metrics_do_not_depend_on_the_network():
    assert not {"detector.py", "train.py", "report.py", "cli.py"} & names("evaluate_run")


def test_an_encoder_is_its_file_its_front_end_and_no_other_network():
    found = digest._reached([digest.PACKAGE / "encoders/mobilenet.py"])
    read = {str(path.relative_to(digest.PACKAGE)) for path in found}
    assert {"encoders/mobilenet.py", "encoders/__init__.py", "frontend.py", "waveform.py"} <= read
    assert not {"detector.py", "encoders/beats.py", "learner.py", "features.py", "corpora/__init__.py"} & read
    assert digest.plugin("encoders", "mobilenet") != digest.plugin("encoders", "beats")


def test_a_report_depends_on_the_templates_of_its_page_and_training_does_not():
    assert {"page.html", "report_page.html", "figures.html", "page.css", "report_page.js"} <= names("report")
    assert "page.html" not in names("train")


def test_an_unknown_command_is_an_error():
    with pytest.raises(KeyError, match="tarin"):
        digest.modules("tarin")


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("def f():\n    return 1\n", 'def f():\n    """New prose."""\n\n    return 1  # a comment\n', True),
        ('"""Head."""\nclass A:\n    """Old."""\n', "class A:\n    pass\n", True),
        ("def f():\n    return 1\n", "def f():\n    return 2\n", False),
        ('text = "a"\n', 'text = "b"\n', False),
    ],
)
def test_prose_does_not_count_and_code_does(tmp_path, before, after, same):
    texts = []
    for name, source in (("before.py", before), ("after.py", after)):
        (tmp_path / name).write_text(source)
        texts.append(digest._read(tmp_path / name)[1])
    assert (texts[0] == texts[1]) is same

"""Plugins by name, their settings read from the source text."""

import subprocess
import sys

import pytest

from sedflow import plugins
from sedflow.plugins import SettingsError

FAMILIES = ("corpora", "encoders", "sequence", "losses")


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in FAMILIES for n in plugins.names(f)])
def test_every_plugin_file_defines_one_class_whose_settings_can_be_read(family, name):
    for setting, (kind, default) in plugins.settings_of(family, name).items():
        if default is not plugins.REQUIRED:
            assert plugins._convert(default, kind, setting) == default or default is None


def test_settings_are_checked_without_importing_torch():
    code = (
        "import sys; from sedflow import plugins; "
        "plugins.check('encoders', {'name': 'mobilenet', 'width': 0.4}, 'here'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_plugin_is_refused_with_the_nearest_one():
    with pytest.raises(SettingsError, match=r"page: detector\.sequence: there is no 'bigruu'.*did you mean 'bigru'"):
        plugins.check("sequence", {"name": "bigruu"}, "page: detector.sequence")


def test_an_unknown_setting_is_refused_with_place_and_nearest_one():
    with pytest.raises(SettingsError, match=r"page: detector\.sequence\.widht: .*did you mean 'width'"):
        plugins.check("sequence", {"name": "bigru", "widht": 3}, "page: detector.sequence")


@pytest.mark.parametrize(("value", "good"), [("3e-1", True), (0.4, True), (1, True), ("wide", False), ([1], False)])
def test_a_value_becomes_its_type_or_is_refused(value, good):
    spec = {"name": "mobilenet", "width": value}
    if good:
        assert isinstance(plugins.check("encoders", spec, "page")["width"], float)
    else:
        with pytest.raises(SettingsError, match="width"):
            plugins.check("encoders", spec, "page")


def test_a_name_with_a_dot_is_a_module_outside_the_package(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def __init__(self, *, size: int = 2):\n        self.size = size\n"
    )
    (tmp_path / "lab").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "lab" / "mine.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert plugins.build("sequence", {"name": "lab.mine", "size": 5}).size == 5
    for name in ("lab.yours", "nobodys.mine", ".mine"):
        with pytest.raises(SettingsError, match="page: no module"):
            plugins.check("sequence", {"name": name}, "page")

"""Who may import whom (DESIGN.md, section 3), read from the sources, and what no file may say."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOUNS = {"params", "plugins", "ranges", "yaml_text", "events", "files", "tables", "frames", "scores", "compat"}
FAMILIES = {"corpora", "encoders", "sequence", "losses"}
STEPS = {"download", "synthesis", "features", "dataset", "augment", "detector", "learner", "train", "inference"}
STEPS |= {"postprocess", "evaluation", "report", "doctor", "sync", "cli"}
WITHOUT_TORCH = ["events", "scores", "postprocess", "evaluation", "report"]

MODULES = {
    ".".join(path.relative_to(ROOT / "sedflow").with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "sedflow").rglob("*.py"))
}


def imports_of(path):
    """Everything a file imports, inside functions too: ``sedflow.x`` as ``x``, foreign packages by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        for name in names:
            ours = name.startswith("sedflow.")
            found |= {name.removeprefix("sedflow.")} & set(MODULES) if ours else {name.split(".")[0]}
    return found - {"sedflow"}


IMPORTS = {name: imports_of(path) for name, path in MODULES.items() if name != "__init__"}


def reach(name):
    """A module with everything it imports, directly or through others of ours."""
    reached, waiting = set(), [name]
    while waiting:
        new = IMPORTS.get(waiting.pop(), set()) - reached
        reached |= new
        waiting.extend(new)
    return reached


def test_arrows_only_point_down():
    order = graphlib.TopologicalSorter({name: found & set(IMPORTS) for name, found in IMPORTS.items()})
    assert set(order.static_order()) == set(IMPORTS)  # a circle raises


def test_nouns_import_nothing_of_ours_but_nouns():
    assert {name: odd for name in NOUNS if (odd := IMPORTS[name] & set(IMPORTS) - NOUNS)} == {}


def test_nobody_imports_the_command_line():
    assert [name for name, found in IMPORTS.items() if "cli" in found] == []


@pytest.mark.parametrize("name", [name for name in IMPORTS if name.split(".")[0] in FAMILIES])
def test_plugins_stay_in_their_family(name):
    family = name.split(".")[0]
    others = {found for found in IMPORTS[name] if found.split(".")[0] in FAMILIES - {family}}
    plugins = {found for found in reach(name) if "." in found and found.split(".")[0] in FAMILIES - {family}}
    assert others | plugins == set()


@pytest.mark.parametrize("name", [name for name in IMPORTS if name.split(".")[0] in ("encoders", "sequence")])
def test_networks_know_no_step_of_the_pipeline(name):
    assert reach(name) & (STEPS | {"params", "plugins", "corpora", "lightning"}) == set()


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_scores_are_judged_without_torch(name):
    assert reach(name) & {"torch", "torchaudio", "lightning"} == set()


@pytest.mark.parametrize(
    "code",
    [
        "import sedflow." + ", sedflow.".join(WITHOUT_TORCH),
        "import runpy; runpy.run_module('sedflow.cli', run_name='__main__')",
    ],
    ids=["judging", "help"],
)
def test_light_commands_load_no_heavy_library(code):
    watch = "import atexit, sys; sys.argv[1:] = ['--help']; heavy = {'torch', 'lightning', 'librosa', 'scaper'}"
    watch += "; atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))"
    run = subprocess.run([sys.executable, "-c", f"{watch}\n{code}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines()[-1] == "[]"


def tracked(*patterns):
    """Text of every file git knows."""
    listing = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listing.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content[:1000]:
            yield name, content.decode("utf-8", errors="replace")


def test_no_file_names_a_machine_or_a_registry():
    told = re.compile(r"""(?<=["'\s=(:])/(work|tmp|root|home)/|pypi\.org|python[h]osted|deb\.debian|registry\.npmjs""")
    texts = {name: text for name, text in tracked() if not name.endswith((".gitignore", ".dvcignore"))}
    assert {name: match[0] for name, text in texts.items() if (match := told.search(text))} == {}


def test_no_two_files_of_tests_share_a_name():
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert names == sorted(set(names))  # pytest would read the first one only


def test_the_product_does_not_know_the_folder_beside_the_checkout():
    assert [name for name, text in tracked("sedflow", "workflow") if "../shared" in text] == []


def test_the_lock_holds_no_malicious_release_and_the_bounds_that_old_libraries_need():
    lock = (ROOT / "envs" / "sedflow.lock").read_text()
    versions = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock, flags=re.MULTILINE))
    assert versions["lightning"] not in ("2.6.2", "2.6.3") and versions["pytorch-lightning"] not in ("2.6.2", "2.6.3")
    assert versions["torch"].startswith("2.11.") and versions["torchaudio"].startswith("2.11.")
    assert int(versions["pandas"].split(".")[0]) < 3 and int(versions["setuptools"].split(".")[0]) < 81
    assert versions["snakemake"] == "9.27.1" and "--hash=sha256:" in lock and "://" not in lock

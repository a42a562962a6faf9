"""What the rules read from the systems' pages: which files a step reads and makes, and the settings it depends on.

Paths are strings relative to the root, as Snakemake wants them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from sedflow import digest, plugins, postprocess, postprocess_checks, stage_plugins, systems
from sedflow.features import cache_key
from sedflow.listing import listing_digest
from sedflow.params import PSEUDO, SettingsError, Shared, Stage, System, canonical
from sedflow.yaml_text import read_yaml

RUN = "models/{system}/{variant}/{stage}/seed{seed}"
LOGITS = "data/logits/{system}/{variant}/{stage}/seed{seed}/{network}/{corpus}/{source}"
PSEUDO_LABELS = "data/pseudo/{system}/{ensemble}/seed{seed}/{corpus}/{source}"
DATA = Path("data")
FOLLOWED = (
    "corpora",
    "clip_seconds",
    "sample_rate",
    "detector",
    "feature_shards",
    "stages",
    "inference",
    "postprocess",
    "variants",
)


class Pages:
    """All systems' pages; each is read and checked when first needed.

    Parameters
    ----------
    folder : Path    ``workflow/systems``
    shared : Shared    ``params.yaml``
    """

    def __init__(self, folder, shared: Shared):
        self.folder, self.shared = Path(folder), shared
        self.names = sorted(page.stem for page in self.folder.glob("*.yaml"))
        self.system = functools.cache(functools.partial(systems.read_system, folder=self.folder))
        self.checked = functools.cache(self._checked)
        self.corpus = functools.cache(self._corpus)
        self.cache = functools.cache(self._cache)

    def variant(self, name: str) -> str:
        """The variant that a system's rule makes."""
        return self.shared.variant if name == self.shared.system else "default"

    def _checked(self, name: str, variant: str) -> System:
        """A system that fits ``params.yaml``, DVC and the other pages; ``SettingsError`` gives the cure."""
        system, page = self.system(name, variant), self.folder / f"{name}.yaml"
        _check_written_out(page, system)
        kind = system.postprocess.get("name")
        if kind not in postprocess.KINDS:
            raise SettingsError(
                f"{page}: postprocess.name: there is no {kind!r}{plugins.nearest(str(kind), postprocess.KINDS)}"
            )
        try:
            postprocess_checks.check(system.postprocess, self.shared.tuning.objective)
        except postprocess.PostprocessError as error:
            raise SettingsError(f"{page}: {error}") from None
        for encoder in system.detector.encoders:
            try:
                cache_folder(system, encoder)
            except SettingsError as error:
                raise SettingsError(f"{page}: detector.encoders: {error}") from None
        folders = list(corpora(system))
        for folder in folders:
            self.corpus(folder)
        for folder in system.postprocess.get("corpora", ()):
            if folder not in folders:
                raise SettingsError(f"{page}: postprocess.corpora: no {folder!r}{plugins.nearest(folder, folders)}")
        if (name, variant) == (self.shared.system, self.shared.variant) and self.shared.corpora != folders:
            raise SettingsError(f"params.yaml: corpora: {self.shared.corpora} does not match {page}: {folders}")
        return system

    @functools.cached_property
    def _everywhere(self) -> list[tuple[str, str, System]]:
        """Every variant of every page that can be read; a broken page only affects its own system."""
        found = []
        for name in self.names:
            try:
                variants = systems.sketch(name, "default", self.folder).variants
                found += [
                    (name, variant, systems.sketch(name, variant, self.folder))
                    for variant in {"default": {}} | variants
                ]
            except SettingsError:
                continue
        return found

    def _corpus(self, folder: str) -> dict:
        """Settings of the corpus in ``data/manifests/<folder>``, which are the same for all systems."""
        found: dict[str, list[str]] = {}
        for name, variant, system in self._everywhere:
            if folder in corpora(system):
                found.setdefault(canonical(corpora(system)[folder]), []).append(f"{name} ({variant})")
                spec = corpora(system)[folder]
        if not found:
            raise SettingsError(f"no page in {self.folder} uses a corpus {folder!r}")
        if len(found) > 1:
            users = "; ".join(f"{', '.join(who)}: {settings}" for settings, who in found.items())
            raise SettingsError(
                f"data/manifests/{folder} cannot hold the corpus with different settings; give one of them a folder "
                f"of its own with `as: {folder}_2`. {users}"
            )
        return spec

    def _cache(self, key: str) -> dict:
        """What a cache folder holds: ``encoder`` with its settings, ``weights``, ``clip_seconds``, ``shards``."""
        for settings, encoder in [(found, own) for *_, found in self._everywhere for own in found.detector.encoders]:
            with contextlib.suppress(SettingsError):  # of a page that nobody asked for
                if cache_folder(settings, encoder) == key:
                    own = {name: value for name, value in encoder.items() if name != "weights"}
                    shape = {"clip_seconds": settings.clip_seconds, "shards": settings.feature_shards}
                    return {"encoder": own, "weights": encoder.get("weights"), **shape}
        raise SettingsError(f"no page in {self.folder} has an encoder whose features are in data/features/{key}")


def _check_written_out(page: Path, system: System) -> None:
    """DVC reads the file itself, so what it follows must stand there, defaults too."""
    written = read_yaml(page)
    for key in FOLLOWED:
        if key not in written:
            raise SettingsError(f"{page}: write out `{key}: {canonical(system.model_dump(mode='json')[key])}`")
    if "default" not in (written["variants"] or {}):
        raise SettingsError(f"{page}: write out `variants: {{default: {{}}}}`")


def corpora(system: System) -> dict[str, dict]:
    """Folder of each corpus → its settings."""
    return {
        spec.get("as", spec["name"]): {name: value for name, value in spec.items() if name != "as"}
        for spec in system.corpora
    }


def corpus_tables(spec: dict) -> list[str]:
    """Tables that a corpus is read from: its class list and the sums of its raw files, or the user's own."""
    committed = [DATA / "classes" / f"{spec['name']}.txt", DATA / f"{spec['name']}.tsv"]
    of_user = getattr(systems.build_corpus(spec), "label_files", [])
    return [str(table) for table in (*committed, *of_user) if table.is_file()]


def corpus_recordings(spec: dict) -> list[str]:
    """The user's own recordings that a corpus is read from."""
    return [str(path) for path in getattr(systems.build_corpus(spec), "audio_files", [])]


def corpus_listing_digest(spec: dict) -> str:
    """Digest of which recordings are in the user's folders that a corpus is read from; none if it is downloaded."""
    folders = spec.get("path") or []
    return listing_digest([folders] if isinstance(folders, str) else folders)


def augment_listing_digest(stage) -> str:
    """Digest of which recordings are in the folders that a stage's augmentations read."""
    return listing_digest(spec["folder"] for spec in stage.augment if "folder" in spec)


def run_folders(name: str, variant: str, system: System, seeds: list[int]) -> list[str]:
    """The run folders of a system, stage by stage."""
    return [
        RUN.format(system=name, variant=variant, stage=stage, seed=seed) for stage in system.stages for seed in seeds
    ]


def networks(stage: Stage) -> list[str]:
    """The networks that a stage trains."""
    return ["student"] + ["teacher"] * (stage.teacher is not None)


def processors(stage: Stage) -> int:
    """How many processors a stage keeps busy beside a GPU: its processes and the loaders of each."""
    return stage.processes * (1 + stage.workers)


def used_sources(system: System, stage: Stage) -> list[str]:
    """Sources whose clips a stage reads, and validation; ``pseudo`` stands for those of its ensemble."""
    used = [source for source, share in stage.sources.items() if share]
    if PSEUDO in used:
        used += system.ensembles[stage.pseudo_labels].sources
    return [source for source in dict.fromkeys(used) if source != PSEUDO] + ["validation"]


def sources_of_corpora(system: System) -> Iterator[tuple[str, str]]:
    """(folder of the corpus, source) for every source that the system's corpora offer."""
    for folder, spec in corpora(system).items():
        for source in systems.build_corpus(spec).sources:
            yield folder, source


def pseudo_files(name: str, system: System, stage: Stage, seed) -> list[str]:
    """The pseudo-labels that a stage learns from: one file per source of its ensemble that it reads."""
    if stage.pseudo_labels is None:
        return []
    wanted = set(system.ensembles[stage.pseudo_labels].sources) & set(used_sources(system, stage))
    return [
        PSEUDO_LABELS.format(system=name, ensemble=stage.pseudo_labels, seed=seed, corpus=folder, source=source)
        + ".npy"
        for folder, source in sources_of_corpora(system)
        if source in wanted
    ]


def listeners(stage: Stage) -> list[str]:
    """Finished detectors that run while a stage trains."""
    return stage_plugins.listeners(stage.losses)


def run_of_page(checkpoint: str, folder="workflow/systems") -> tuple[str, System, str] | None:
    """Page, its settings in a variant, and stage of the run that a file belongs to; None if no page makes it."""
    with contextlib.suppress(ValueError):  # another path, or no such page
        page, variant, stage, _, _ = Path(checkpoint).relative_to("models").parts
        return page, systems.sketch(page, variant, folder), stage
    return None


def listener_plugins(stage: Stage, folder="workflow/systems") -> list[tuple[str, str]]:
    """(family, name) of the plugins in those detectors that pages make; other files count by their content."""
    runs = filter(None, (run_of_page(checkpoint, folder) for checkpoint in listeners(stage)))
    return [plugin for _, system, _ in runs for plugin in network_plugins(system)]


def member_files(page: System, ensemble: str, **wildcards) -> list[str]:
    """Scores of an ensemble's members for a source; ``wildcards``: system, seed, corpus, source."""
    members = page.ensembles[ensemble].members
    return [LOGITS.format(**member.model_dump(), **wildcards) + ".npy" for member in members]


def cache_folder(system: System, encoder: dict) -> str:
    """Name of the folder with an encoder's features."""
    own = {name: value for name, value in encoder.items() if name != "weights"}
    identity = digest.weights(encoder["weights"]) if encoder.get("weights") else None
    code = digest.plugin("encoders", encoder["name"])
    return f"{cache_key(own, code, identity, system.clip_seconds, system.sample_rate)}-{system.feature_shards}"


def caches(system: System, stage: Stage) -> dict[str, str]:
    """Encoders that a stage freezes → folder of their features; none if it does without the cache."""
    frozen = [encoder for encoder in system.detector.encoders if stage.cached and encoder["name"] in stage.freeze]
    return {encoder["name"]: f"data/features/{cache_folder(system, encoder)}" for encoder in frozen}


def cache_files(system: System, stage: Stage) -> list[str]:
    """The shards of the cache that a stage reads."""
    used = used_sources(system, stage)
    return [
        f"{cache}/{folder}/{source}-{shard}.npy"
        for cache in caches(system, stage).values()
        for folder, source in sources_of_corpora(system)
        if source in used
        for shard in range(system.feature_shards)
    ]


def weights(system: System, stage: Stage) -> dict[str, str]:
    """Encoders → files of weights that a stage begins with; none if it goes on from another stage."""
    if stage.start_from is not None:
        return {}
    named = {encoder["name"]: encoder.get("weights") for encoder in system.detector.encoders}
    return {encoder: digest.weights_file(name) for encoder, name in named.items() if name}


def train_settings(name: str, system: System, stage: str) -> dict:
    """The settings that training one stage reads."""
    whole = system.model_dump(mode="json")
    kept = ("clip_seconds", "sample_rate", "inference", "feature_shards")
    return {
        "system": name,
        "stage_name": stage,
        "stage": whole["stages"][stage],
        "detector": whole["detector"],
        "corpora": list(corpora(system).values()),
        **{key: whole[key] for key in kept},
    }


def network_plugins(system: System) -> list[tuple[str, str]]:
    """(family, name) of the plugins the detector is built from."""
    detector = system.detector
    return [*(("encoders", encoder["name"]) for encoder in detector.encoders), ("sequence", detector.sequence["name"])]


def train_plugins(system: System, stage: Stage) -> list[tuple[str, str]]:
    """(family, name) of the plugins whose code training a stage depends on; corpora count by their manifests."""
    return [
        *network_plugins(system),
        *listener_plugins(stage),
        *(("losses", loss["name"]) for loss in stage.losses),
        *(("augment", step["name"]) for step in stage.augment),
    ]

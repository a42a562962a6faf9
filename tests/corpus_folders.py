"""Small folders laid out as the real corpora are, with noise for audio."""

import json

import numpy as np
import soundfile


def noise(path, seconds, rate=16000, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, sum(path.stem.encode())])
    soundfile.write(path, 0.1 * rng.standard_normal(round(seconds * rate)), rate)
    return path


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


STRONG = ("filename", "onset", "offset", "event_label")
SYNTHETIC = {
    "train": "train/synthetic21_train/soundscapes",
    "validation": "validation/synthetic21_validation/soundscapes",
}


def desed(root, seconds=2.0):
    """Three clips of every set; one weak clip is strong too, one strong clip's video is tested on."""
    video = lambda letter, k, start=0: f"Y{letter * 10}{k}_{start}.000_{start + 10}.000"  # noqa: E731
    names = {
        "audio/train/strong_label_real": [video("s", 0), video("s", 1), video("t", 0, 50)],
        "audio/train/weak": [video("s", 0), *(video("w", k) for k in range(3))],
        "audio/train/unlabel_in_domain": [video("u", k) for k in range(3)],
        "audio/validation/validation": [video("t", k) for k in range(3)],
        "audio/eval/public": [video("p", k)[1:] for k in range(3)],
        f"audio/{SYNTHETIC['train']}": ["0", "1", "2"],
        f"audio/{SYNTHETIC['validation']}": ["0", "1", "2"],
    }
    for folder, clips in names.items():
        for k, clip in enumerate(clips):
            noise(root / folder / f"{clip}.wav", seconds, 44100 if "weak" in folder else 16000, seed=len(folder) + k)
    strong = {
        "train/audioset_strong.tsv": names["audio/train/strong_label_real"],
        "validation/validation.tsv": names["audio/validation/validation"],
        "eval/public.tsv": names["audio/eval/public"],
        f"{SYNTHETIC['train']}.tsv": ["0", "1", "2"],
        f"{SYNTHETIC['validation']}.tsv": ["0", "1", "2"],
    }
    for path, clips in strong.items():
        rows = [(f"{clip}.wav", 0.5, 2.4, "Speech") for clip in clips[:2]] + [(f"{clips[2]}.wav", "", "", "")]
        table(root / "metadata" / path, STRONG, *rows, (f"{clips[0]}.wav", 0.0, 0.3, "Dog"))
    weak = [(f"{clip}.wav", "Dog,Speech") for clip in names["audio/train/weak"]]
    table(root / "metadata/train/weak.tsv", ("filename", "event_labels"), *weak)
    unlabeled = [(f"{clip}.wav",) for clip in names["audio/train/unlabel_in_domain"]]
    table(root / "metadata/train/unlabel_in_domain.tsv", ("filename",), *unlabeled)
    return root


def desed_external(root, seconds=2.0):
    """CP-JKU's list: two clips of its own, one of a tested video, one that is weak too; another validates."""
    clips = [f"Y{'x' * 10}{k}_0.000_10.000" for k in range(2)]
    clips += [f"Y{'t' * 10}1_50.000_60.000", f"Y{'w' * 10}0_0.000_10.000"]
    of_part = {"train": clips, "val": [f"Y{'v' * 10}0_0.000_10.000"]}
    for part, names in of_part.items():
        for clip in names:
            noise(root / "audio/train/external_strong" / f"{clip}.wav", seconds)
        rows = [(f"{clip}.wav", 0.5, 1.5, "Cat") for clip in names]
        table(root / f"metadata/train/external_strong_{part}.tsv", STRONG, *rows)
    return root


def desed_soundbank(root, seconds=2.0):
    """A few recordings of two classes, of a sound that is no target, and of two backgrounds."""
    bank = root / "audio/train/soundbank"
    for k in range(12):
        noise(bank / f"foreground/Dog/{1000 + k}_0.wav", 0.5, 44100, seed=k)
        noise(bank / f"foreground/Speech_nOn/{2000 + k}_1.wav", 0.7, 44100, seed=k)
        noise(bank / f"background/home/{k}.wav", seconds + 1, 44100, seed=k)
        noise(bank / f"background/short/{100 + k}.wav", seconds - 0.5, 44100, seed=k)
    noise(bank / "foreground/Guitar/3000_0.wav", 0.5)
    return root


def maestro(root, recordings, seconds=12):
    """Recordings with a car that more and more people hear, and a bird that few do."""
    for recording in recordings:
        noise(root / "development_audio" / recording[:-3] / f"{recording}.wav", seconds, 44100)
        rows = [(float(k), k + 1.0, "car", round(k / seconds, 3)) for k in range(seconds)]
        rows += [(2.0, 3.0, "birds_singing", 0.25)]
        table(root / "development_annotation" / recording[:-3] / f"{recording}.txt", *rows)
    return root


def audioset(root, train=6, evaluated=3, seconds=2.0):
    """Segments named by video, in several formats; one evaluated clip has no event of the common classes."""
    columns = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
    rows = []
    for k in range(train):
        noise(root / "audio" / "unbalanced" / f"Y{'a' * 10}{k}.{('wav', 'flac')[k % 2]}", seconds, 32000, seed=k)
        segment = f"{'a' * 10}{k}_30000"
        rows += [(segment, 0.0, 0.5, "/m/09x0r"), (segment, 0.5, 1.0, "/m/09x0r"), (segment, 1.0, 2.2, "/m/0bt9lr")]
    table(root / "audioset_train_strong.tsv", columns, *rows)
    rows = [(f"{'e' * 10}{k}_0", 0.25, 1.0, "/m/09x0r") for k in range(evaluated - 1)]
    rows += [(f"{'e' * 10}{evaluated - 1}_0", 0.25, 1.0, "/m/028v0c")]  # Silence, evaluated only
    for k in range(evaluated):
        noise(root / "audio" / "eval" / f"{'e' * 10}{k}_0_10000.wav", seconds, 32000, seed=k)
    table(root / "audioset_eval_strong.tsv", columns, *rows)
    return root


def dcase2016(root, seconds=5):
    """Two scenes of each split at both rates."""
    for split in ("train", "valid", "test"):
        labels = {}
        for k in range(2):
            for rate in (16000, 48000):
                noise(root / "tasks" / "task2" / str(rate) / split / f"{split}_{k}.wav", seconds, rate, seed=k)
            labels[f"{split}_{k}.wav"] = [{"label": "keysDrop", "start": 1500.0, "end": 2500.0}]
        (root / "tasks" / "task2" / f"{split}.json").write_text(json.dumps(labels))
    return root

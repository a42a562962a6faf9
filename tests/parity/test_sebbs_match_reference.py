"""Boxes equal those of the published method's own implementation, box by box."""

import json

import numpy as np
import pytest

from sedflow.scores import load_scores
from sedflow.sebbs import boxes
from sedflow.stretches import Frames


@pytest.mark.parametrize("setting", ["0.32/0.15/1.5", "0.48/0.2/2.0"])
def test_boxes_match_reference(eval_reference_dir, setting):
    frames = Frames.of(load_scores(eval_reference_dir / "scores"))
    block = json.loads((eval_reference_dir / "expected.json").read_text())["csebbs"][setting]
    compared = 0
    for label in frames.classes:
        found = boxes(
            frames.column(label),
            frames,
            block["step_filter_length"],
            block["merge_threshold_abs"],
            block["merge_threshold_rel"],
        )
        for number, clip in enumerate(frames.clips):
            expected = sorted((on, off, score) for on, off, other, score in block["sebbs"][clip] if other == label)
            of_clip = np.stack([found.onset, found.offset, found.confidence], axis=1)[found.clip == number]
            assert of_clip.shape == (len(expected), 3), (clip, label)
            np.testing.assert_allclose(of_clip, np.reshape(expected, (-1, 3)), atol=1e-6, err_msg=f"{clip} {label}")
            compared += len(expected)
    assert compared == sum(map(len, block["sebbs"].values()))

"""A detector as it is usually written: eager operations in float32, channels first, norms as passes of their own.

The parameters are those of our detector, and so is the result; what differs is the order of operations, which is that
of the official codes.
"""

import types

from encoder_mobilenet import plain as plain_mobilenet
from encoders import plain_atst, plain_cnn
from torch.nn import functional as F

from sedflow.encoders.atst import ATST
from sedflow.encoders.cnn import CNN
from sedflow.encoders.mobilenet import MobileNet
from sedflow.products import Linear
from sedflow.sequence.bigru import BiGRU


def write_usually(detector):
    """Give every part of a detector its plain forward pass, in place."""
    for module in detector.modules():
        plain = PLAIN.get(type(module))
        if plain:
            module.forward = types.MethodType(plain, module)
    return detector


def plain_crnn(cnn, waveform):
    return plain_cnn(cnn, cnn.features(cnn.spectrogram(waveform)))


def plain_recurrence(head, embeddings, padding_mask=None):
    assert padding_mask is None
    return head.gru(embeddings)[0]


def plain_linear(layer, features):
    return F.linear(features, layer.weight, layer.bias)


PLAIN = {
    ATST: plain_atst,
    BiGRU: plain_recurrence,
    CNN: plain_crnn,
    Linear: plain_linear,
    MobileNet: plain_mobilenet,
}

"""Matrix products on a processor: which library is fast depends on the chip.

On one core of an AMD EPYC (Zen 5), 496 tokens: from 768 to 3072 features in float32 takes MKL 23 ms and oneDNN 10 ms;
in bfloat16 5.8 ms, and 5.1 ms if the weight is brought into oneDNN's order beforehand; attention of twelve heads in
bfloat16 takes 11 ms fused, 5 ms as two products and a softmax, 3 ms with the softmax of `sedflow.bfloat16`. A layer's
three products in training, from 256 to 768 features for 8,000 tokens in float32, take MKL 104 ms and oneDNN 58 ms.
With AMX bfloat16 products are faster still, and what lies between them counts more; float32 is left to MKL there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedflow import bfloat16
from sedflow.dropout import dropout
from sedflow.memo import Memo

_FEW_THREADS = 2
_SMALL_WEIGHT = 2**16  # numbers; a product by oneDNN takes 10 µs to begin, which two at once share
_LANES = 16  # numbers that a processor's softmax takes at once; what is left of a row it takes one by one


class Linear(nn.Linear):
    """`torch.nn.Linear`, by oneDNN where that is the faster library."""

    def __init__(self, *sizes: int, bias: bool = True):
        super().__init__(*sizes, bias=bias)
        self._ordered = Memo()

    def forward(self, features: Tensor, gelu: bool = False) -> Tensor:
        """(…, in) → (…, out), or its GELU."""
        if self.weight.dtype == torch.bfloat16 and _orders_weights(features, self.weight):
            # in float32 the order gains half as much and costs twice the memory
            ordered = self._ordered(torch.ops.mkldnn._reorder_linear_weight, self.weight)
            return _onednn_product(features, ordered, self.bias, gelu)
        self._ordered.forget()
        product = linear(features, self.weight, self.bias)
        return F.gelu(product) if gelu else product


class Convolution:
    """A convolution whose weight is computed from parameters, once (`Memo`) where that is possible.

    Parameters
    ----------
    compute : callable    parameters → weight, (out, in / groups, height, width)
    stride, padding : tuple of int    along height and width
    groups : int
    """

    def __init__(
        self,
        compute: Callable[..., Tensor],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        groups: int = 1,
    ):
        self.compute, self.stride, self.padding, self.groups = compute, stride, padding, groups
        self._weight, self._ordered = Memo(), Memo()

    def __call__(self, maps: Tensor, bias: Tensor, *parameters: Tensor, gelu: bool = False) -> Tensor:
        """(batch, in, height, width) → (batch, out, …), or its GELU."""
        if not _orders_weights(maps, bias):
            self._ordered.forget()
            weight = self._weight(self.compute, *parameters)
            convolved = F.conv2d(maps, weight, bias, self.stride, self.padding, groups=self.groups)
            return F.gelu(convolved) if gelu else convolved
        geometry = (self.padding, self.stride, (1, 1), self.groups)
        ordered = self._ordered(
            lambda *values: torch.ops.mkldnn._reorder_convolution_weight(self.compute(*values), *geometry), *parameters
        )
        return torch.ops.mkldnn._convolution_pointwise(maps, ordered, bias, *geometry, *_behind(gelu))


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` without dilation, as `Convolution` computes it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0):
        super().__init__(inputs, outputs, kernel, stride, padding)
        self._convolution = Convolution(_as_it_is, self.stride, self.padding)

    def forward(self, maps: Tensor, gelu: bool = False) -> Tensor:
        """(batch, in, height, width) → (batch, out, …), or its GELU."""
        return self._convolution(maps, self.bias, self.weight, gelu=gelu)


def linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` with its gradients: (…, in), (out, in) and (out,) → (…, out)."""
    if features.dtype == weight.dtype and _full_by_onednn(features):
        return _OneDNNLinear.apply(features, weight, bias)
    return F.linear(features, weight, bias)


def repeated(weights: Tensor) -> Callable[[Tensor], Sequence[Tensor]]:
    """Products with several ``weights`` (number, out, in) that are used many times, without gradient.

    Returns
    -------
    callable    features (number, batch, in) → as many of (batch, out)
    """
    in_half = weights.dtype == torch.bfloat16 and _ours_to_choose(weights) and _has_onednn(weights.dtype)
    if in_half and weights[0].numel() <= _SMALL_WEIGHT:
        transposed = weights.transpose(1, 2).contiguous()
        return lambda features: torch.bmm(features, transposed)
    if in_half or _full_by_onednn(weights):
        ordered = [torch.ops.mkldnn._reorder_linear_weight(weight.contiguous()) for weight in weights]
        return lambda features: list(map(_onednn_product, features, ordered))
    return lambda features: list(map(F.linear, features, weights))


def weight_gradient(by_output: Tensor, features: Tensor) -> Tensor:
    """Gradient (out, in) of a linear layer's weight, from (…, out) and (…, in)."""
    rows, columns = by_output.flatten(0, -2).t(), features.flatten(0, -2).t()
    # oneDNN wants both turned around, which pays if each number is then multiplied often enough
    pays = len(rows) * len(columns) > 64 * (len(rows) + len(columns))
    if pays and _full_by_onednn(rows):
        return _onednn_product(rows.contiguous(), columns.contiguous())
    return torch.mm(rows, columns.t())


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    dropped: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention, (batch, heads, tokens, width).

    ``bias`` (…, queries, keys) is added to the scaled products, ``gate`` (…, queries, 1) times if there is one; a bool
    one is True where a key may be looked at.
    """
    compiling = torch.compiler.is_compiling()
    fused_is_slow = values.dtype == torch.bfloat16 and not compiling and not _multiplies_in_tiles()
    if passes_pay(queries, keys, values) and not dropped:
        return _attention_compiled(queries, keys, values, _added(bias, values.dtype), gate)
    if fused_is_slow and _inferring(queries) and not dropped:
        return _attention_step_by_step(queries, keys, values, _added(bias, values.dtype), gate)
    if gate is not None:
        bias = gate * bias
    if queries.device.type == "cpu" and (dropped or fused_is_slow):
        return _attention_in_training(queries, keys, values, bias, dropped)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, dropout_p=dropped)


def _added(bias, dtype):
    """A bias as numbers of a type; keys that a bool one hides get a very low one."""
    if bias is None or bias.dtype != torch.bool:
        return bias if bias is None else bias.to(dtype)
    low = torch.finfo(dtype).min / 2  # not infinity: of a clip of padding alone every key is hidden
    return torch.zeros_like(bias, dtype=dtype).masked_fill_(~bias, low)


def _attention_in_training(queries, keys, values, bias, share):
    """With gradients, and under autocast: fused, PyTorch's draws what is dropped number by number."""
    with torch.autocast("cpu", enabled=False):  # it would widen the softmax
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)  # as autocast would
        scores = (queries * queries.shape[3] ** -0.5) @ keys.transpose(-2, -1)
        if bias is not None:
            scores = scores + _added(bias, values.dtype)
        return dropout(torch.softmax(scores, dim=3), share, training=True) @ values


def _attention_compiled(queries, keys, values, bias, gate):
    # of strided keys the product would make a copy number by number
    scores = queries.flatten(0, 1) @ keys.contiguous().flatten(0, 1).transpose(1, 2)
    bfloat16.softmax_(scores.unflatten(0, queries.shape[:2]), queries.shape[3] ** -0.5, bias, gate)
    return (scores @ values.flatten(0, 1)).unflatten(0, queries.shape[:2])


def _attention_step_by_step(queries, keys, values, bias, gate):
    """The same in place, as the cache should not hold the scores of all heads twice, and in rows of whole vectors."""
    batch, tokens = queries.shape[:2], keys.shape[2]
    missing = -tokens % _LANES
    keys, values = (F.pad(part, (0, 0, 0, missing)).flatten(0, 1) for part in (keys, values))
    scores = torch.bmm((queries * queries.shape[3] ** -0.5).flatten(0, 1), keys.transpose(1, 2))
    scores[:, :, tokens:] = -torch.inf
    by_head = scores[:, :, :tokens].unflatten(0, batch)
    if gate is not None:
        by_head.addcmul_(gate, bias)
    elif bias is not None:
        by_head.add_(bias)
    return torch.bmm(torch.softmax(scores, dim=2, out=scores), values).unflatten(0, batch)


class _OneDNNLinear(torch.autograd.Function):
    """A linear layer of which all three products are oneDNN's."""

    @staticmethod
    def forward(ctx, features, weight, bias):
        ctx.save_for_backward(features, weight)
        return _onednn_product(features, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        features, weight = ctx.saved_tensors
        needs_features, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, weight.shape[0])
        by_features = by_weight = by_bias = None
        if needs_features:
            by_features = _onednn_product(rows, weight.t().contiguous()).view(features.shape)
        if needs_weight:
            by_weight = weight_gradient(rows, features)
        if needs_bias:
            by_bias = rows.sum(dim=0)
        return by_features, by_weight, by_bias


def _onednn_product(features: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(features, weight, bias, *_behind(gelu))


def _behind(gelu: bool) -> tuple[str, list, str]:
    """What oneDNN does to a product before it writes it."""
    return ("gelu", [], "none") if gelu else ("none", [], "")


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


def _orders_weights(features: Tensor, weight: Tensor) -> bool:
    """Whether inference with this weight is oneDNN's, which can then have it in its own order."""
    return _inferring(features) and features.dtype == weight.dtype and _has_onednn(weight.dtype)


def passes_pay(features: Tensor, *others: Tensor | None) -> bool:
    """Whether `sedflow.bfloat16` takes all of these, and is faster on one core than PyTorch on all of its threads."""
    # it reads bits, and would take those of a float32 for bfloat16
    in_half = all(part is None or part.dtype == torch.bfloat16 for part in (features, *others))
    return in_half and _inferring(features) and torch.get_num_threads() <= _FEW_THREADS


def _inferring(features: Tensor) -> bool:
    return _ours_to_choose(features) and not torch.is_grad_enabled()


def _full_by_onednn(features: Tensor) -> bool:
    """Whether products in float32, those of gradients too, are oneDNN's: where MKL is the slower library."""
    in_full = features.dtype == torch.float32
    return in_full and _ours_to_choose(features) and not _multiplies_in_tiles() and _has_onednn(torch.float32)


def _ours_to_choose(features: Tensor) -> bool:
    """Whether another library may pay: on a processor, if nobody rewrites products."""
    on_processor = features.device.type == "cpu"
    return on_processor and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


@functools.cache
def _multiplies_in_tiles() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


@functools.cache
def _has_onednn(dtype: torch.dtype) -> bool:
    # operators that PyTorch's own compiler emits; a release without them multiplies with MKL
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())

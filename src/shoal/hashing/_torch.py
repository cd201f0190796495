"""What stands for a tensor of torch, whose pickle has the whole storage that it is a view of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ._walk import Writer
from ._writers import standing_in, write_reduced


def _tensor(tensor: Any) -> Iterator[Any]:
    order = "C" if tensor.is_contiguous() else tensor.stride()
    yield [str(tensor.dtype), tuple(tensor.shape), order, tensor.device.type, tensor.requires_grad]
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # As bytes: numpy has no bfloat16, nor some others.
    yield plain.reshape(-1).view(torch.uint8).numpy()


_write_dense = standing_in(_tensor)


def _write(walk: Any, node: Any, tensor: Any) -> None:
    dense = tensor.layout is torch.strided and not tensor.is_quantized
    (_write_dense if dense else write_reduced)(walk, node, tensor)


def writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the writers of torch's types."""
    return {torch.Tensor: (b"tensor\n", _write)}

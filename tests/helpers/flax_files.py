"""Files as flax writes them, by its description: maps of packed arrays."""

import msgpack
import numpy as np


def packed(value, halved=False):
    """An array as its kind 1: shape, type and bytes; ``halved`` to bfloat16."""
    if halved:
        halves = (np.asarray(value, np.float32).view(np.uint32) >> 16).astype("<u2")
        content = (value.shape, "bfloat16", halves.tobytes())
    else:
        content = (value.shape, value.dtype.name, value.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content, use_bin_type=True))


def chunked(value, size):
    """A long array in pieces."""
    pieces = np.array_split(value.reshape(-1), -(-value.size // size))
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(value.shape)},
        "chunks": {str(i): packed(piece) for i, piece in enumerate(pieces)},
    }


def tree_of(tree, change=packed):
    return {k: tree_of(v, change) if isinstance(v, dict) else change(v) for k, v in tree.items()}


def flax_bytes(tree):
    return msgpack.packb(tree, use_bin_type=True)

"""Image files made byte by byte: what Pillow does not write, and what it must not be asked about itself."""

import struct
import zlib

import numpy as np

# Bytes of TIFF's types of values.
FORMATS = {3: "H", 4: "I", 8: "h", 9: "i", 11: "f", 12: "d"}


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_file(values: np.ndarray, *, bits: int, color: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG (W3C, 3rd edition) of integers [height, width(, channels)]; chunks `before` and `after` its pixels."""
    height, width = values.shape[:2]
    rows = np.ascontiguousarray(values).reshape(height, -1)
    if bits < 8:
        each = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :].reshape(height, -1)
        lines = np.packbits(each, axis=-1)
    else:
        lines = rows.astype(">u2" if bits == 16 else np.uint8, order="C").view(np.uint8)
    filtered = b"".join(b"\0" + line.tobytes() for line in lines)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
        + before
        + png_chunk(b"IDAT", zlib.compress(filtered))
        + after
        + png_chunk(b"IEND", b"")
    )


def tiff_file(
    values: np.ndarray,
    tags: dict[int, tuple[int, list]] | None = None,
    *,
    order="<",
    deflate=False,
    white_is_zero=False,
) -> bytes:
    """A TIFF 6.0 of one strip, of the values' own type [height, width(, channels)]. `tags` gives type and values."""
    height, width, channels = (*values.shape, 1)[:3]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    photometric = 2 if channels > 2 else 0 if white_is_zero else 1
    every = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [8 * values.itemsize] * channels),
        259: (3, [8 if deflate else 1]), 262: (3, [photometric]), 273: (4, [8]), 277: (3, [channels]),
        278: (4, [height]), 279: (4, [len(data)]), 339: (3, ["uif".index(values.dtype.kind) + 1] * channels),
    } | (tags or {})  # fmt: skip
    data += b"\0" * (len(data) % 2)
    directory = 8 + len(data)
    behind = directory + 2 + 12 * len(every) + 4
    entries, long = b"", b""
    for tag, (kind, content) in sorted(every.items()):
        packed = struct.pack(order + FORMATS[kind] * len(content), *content)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(order + "I", behind + len(long))
        long += packed if len(packed) > 4 else b""
        entries += struct.pack(order + "HHI", tag, kind, len(content)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", directory)
    return head + data + struct.pack(order + "H", len(every)) + entries + struct.pack(order + "I", 0) + long

"""What an image file shows: upright, RGB, 8 bits a sample. Whatever decodes an image does so by this module."""

import hashlib
import io
import struct
import sys
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageFile, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from bitlite.images import depth
from bitlite.images.depth import Kind, Samples, Span, Unreadable

# Of what costs no picture, and without saying of which: much EXIF, and sizes that are decoded all the same.
warnings.filterwarnings("ignore", module=r"PIL\.")

# As Pillow names them. JPEG takes in MPO: several in one file, as phones write them, of which the first is the photo.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
# What stands an image upright that has this EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TRANSPARENT = "nothing to see: all pixels are transparent"
# Rows or columns that a sketch has at least, if the image has as many.
SKETCH = 128
# Rows or columns below which many images look alike: digits do.
LEAST_LOOK = 48
# The lowest 8 of 32 rows of the discrete cosine transform, times 2**16: integers, and sums below 2**53, which floats
# have alike on all machines.
COSINES = np.rint(2**16 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1)))


class Seen(NamedTuple):
    """What decoding an image once tells of it, without its pixels."""

    # SHA-256 of upright pixels, of all or of some that are evenly spread: images that differ here differ. None of
    # samples whose range is not known.
    sketch: bytes | None
    # Whether it is of all pixels: images that agree here are equal.
    exact: bool
    # Whether the prepared data set can hold the file's own bytes.
    kept: bool
    # Whether the file holds others behind this one: pages, or frames of an animation. Those of an MPO are views of it.
    several: bool
    # Its perceptual hash of 64 bits (pHash, Zauner 2010): that of thumbnails and of other encodings differs in a few.
    # None of small images, and of samples whose range is not known.
    look: int | None = None
    # Of an image of more than 8 bits, as `Samples` has them.
    kind: Kind | None = None
    used: Span | None = None
    bright: float | None = None
    declared: Span | None = None


def upright_rgb(content: bytes, *, background: str = "white", spans: Mapping[Kind, Span] = {}) -> Image.Image:
    """The image that a file shows, in RGB of 8 bits.

    EXIF's orientation is followed; transparent pixels are laid on `background`. `spans` gives the range shown as black
    to white of samples of more than 8 bits, where the file itself gives none.

    Raises Unreadable if what the pixels mean is not known, and whatever Pillow raises of a file that is no image.
    """
    image = _opened(content)
    if samples := _samples(content, image):
        shown = _shown(samples, background, spans)
        if shown is None:
            unknown = f"{samples.kind} samples of which it is not known what is black and what white"
            raise Unreadable(f"{unknown}, to be saved in 8 bits")
        return shown
    image.load()
    return _rgb(_turned(image, image), background)


def pixels(content: bytes, size: tuple[int, int], **settings) -> np.ndarray:
    """What a network of images of `size` (height, width) is shown of a file: uint8 [height, width, 3] in 0..255.

    As in BiT, resizing does not keep the aspect. It is Pillow's (bilinear, antialiased), the same for training,
    calibration, evaluation and use. `settings` and errors are those of `upright_rgb`.
    """
    return np.asarray(upright_rgb(content, **settings).resize(size[::-1], Image.Resampling.BILINEAR))


def see(content: bytes, *, background: str = "white", spans: Mapping[Kind, Span] = {}) -> Seen:
    """Decode an image to know it again; `background` and `spans` are those of `upright_rgb`.

    Raises Unreadable if its samples can't be shown, or all of it is transparent, and whatever Pillow raises of a file
    that is no image.
    """
    opened = _opened(content)
    samples = _samples(content, opened)
    about = (samples.kind, samples.used, samples.bright, samples.declared) if samples else ()
    image = _shown(samples, background, spans) if samples else opened
    if image is None:
        return Seen(None, False, False, False, None, *about)
    image.load()
    if image.has_transparency_data and image.convert("RGBA").getextrema()[-1] == (0, 0):
        raise Unreadable(TRANSPARENT)
    # Odd: the middle of a square is a pixel then, the same one however the image is turned.
    step = max(1, min(image.size) // SKETCH)
    step -= step % 2 == 0
    sketch = _rgb(_turned(_sampled(image, step), image), background)
    return Seen(_digest(sketch, step), step == 1, _kept(image), _holds_several(opened), _look(sketch), *about)


def digest(content: bytes, **settings) -> bytes:
    """SHA-256 of all pixels of an image: the same for equal images, however they are encoded.

    `settings` are those of `upright_rgb`.
    """
    return _digest(upright_rgb(content, **settings), 1)


def is_transparent(content: bytes) -> bool:
    """Whether the background may be seen through the image that a file shows."""
    return _opened(content).has_transparency_data


def png(image: Image.Image) -> bytes:
    """`image` as a PNG, written in a quarter of the time that Pillow's default takes, and a tenth larger."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _opened(content: bytes) -> ImageFile.ImageFile:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        # Pillow's own text names an address in memory.
        raise _unread_samples(content) or UnidentifiedImageError(f"none of {', '.join(FORMATS)}") from error
    # Pillow spreads the values of a PNG's pixels over 8 bits, but not the one that it says is transparent.
    spread = {"L;2": 85, "L;4": 17}.get(_layout(image), 1)
    if spread > 1 and "transparency" in image.info:
        image.info["transparency"] *= spread
    return image


def _unread_samples(content: bytes) -> Unreadable | None:
    """What is to be told of a good file whose samples Pillow does not read: floats of 64 bits, JPEG of 12."""
    for kind, reader in (("JPEG", JpegImagePlugin.JpegImageFile), ("TIFF", TiffImagePlugin.TiffImageFile)):
        try:
            reader(io.BytesIO(content))
        except Exception as error:
            if "layers" in str(error) or "pixel mode" in str(error):
                remedy = "to be saved in grey or RGB alone, of 8 or 16 unsigned bits"
                return Unreadable(f"{kind} whose samples can't be read ({error}), {remedy}")
    return None


def _layout(image: ImageFile.ImageFile) -> str:
    """What Pillow calls the raw mode of an opened PNG or TIFF: how samples lie in the file."""
    if image.format not in ("PNG", "TIFF") or not image.tile:
        return ""
    args = image.tile[0].args
    return args[0] if isinstance(args, tuple) else args or ""


def _kept(image: Image.Image) -> bool:
    """Whether TFDS can decode the file: JPEG in any mode, though not turned; PNG if it is opaque and upright."""
    plain = image.mode in ("L", "RGB") and not image.has_transparency_data and _turn(image) is None
    return image.format in ("JPEG", "MPO") or (image.format == "PNG" and plain)


def _holds_several(image: Image.Image) -> bool:
    """Whether others lie behind this one in the file. Afterwards it may not be read again."""
    try:
        return image.format != "MPO" and getattr(image, "is_animated", False)
    except Exception:  # what lies behind is damaged
        return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What stands an image upright. Only once it is loaded is that known: a PNG may have its EXIF behind the pixels."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF, which raises as many things as a damaged image
        return None


def _turned(image: Image.Image, like: Image.Image) -> Image.Image:
    """`image` as it must be turned for `like` to stand upright."""
    turn = _turn(like)
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, background: str) -> Image.Image:
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _sampled(image: Image.Image, step: int) -> Image.Image:
    """The pixels in the middle of squares of `step`, an odd number; both ends of a side leave out equally many."""
    if step == 1:
        return image
    # What makes side - 2 * margin a multiple of step.
    margins = [side * (step + 1) // 2 % step for side in image.size]
    counts = [(side - 2 * margin) // step for side, margin in zip(image.size, margins, strict=True)]
    ends = [margin + count * step for margin, count in zip(margins, counts, strict=True)]
    (left, top), (right, bottom) = margins, ends
    return image.resize(counts, Image.Resampling.NEAREST, (left, top, right, bottom))


def _digest(image: Image.Image, step: int) -> bytes:
    return hashlib.sha256(struct.pack("<3I", step, *image.size) + image.tobytes()).digest()


def _look(image: Image.Image) -> int | None:
    """Which of the lowest 8 by 8 frequencies of a grey image of 32 by 32 pixels are above their median, as 64 bits."""
    if min(image.size) < LEAST_LOOK:
        return None
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = (COSINES @ grey @ COSINES.T).ravel()
    middle = np.sort(low)[31:33].sum()
    return int.from_bytes(np.packbits(2 * low > middle).tobytes(), "big")


# Samples of more than 8 bits

# What samples are, by TIFF's BitsPerSample and SampleFormat (TIFF 6.0, sections 8 and 19).
TIFF_TYPES = {
    (8, 2): "int8", (12, 1): "uint16", (16, 1): "uint16", (16, 2): "int16", (32, 1): "uint32", (32, 2): "int32",
    (32, 3): "float32",
}  # fmt: skip
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR, SAMPLE_FORMAT = 258, 262, 284, 339
# SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue.
TIFF_RANGES = ((340, 341), (280, 281))


def _samples(content: bytes, image: ImageFile.ImageFile) -> Samples | None:
    """The samples of an opened image, if they have more than 8 bits or are signed."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    bits, form = (int(np.max(tags[tag])) if tag in tags else 1 for tag in (BITS_PER_SAMPLE, SAMPLE_FORMAT))
    layout, alpha = _layout(image), None
    if grey := image.mode in ("I", "F") or image.mode.startswith("I;16") or (bits, form) == (8, 2):
        image.load()
        type_ = TIFF_TYPES[bits, form] if tags else "float32" if image.mode == "F" else "uint16"
        values = np.asarray(_turned(image, image)).astype(type_)
    elif ";16" in layout or bits > 8:
        if image.mode == "CMYK":
            raise Unreadable("16 bits a sample in CMYK, to be converted to RGB")
        if tags.get(PLANAR) == 2:
            raise Unreadable("16 bits a sample in separate planes, to be saved as PNG or in one plane")
        type_, (values, alpha) = "uint16", _colours(content, layout)
    else:
        return None
    if not np.isfinite(values).all():
        raise Unreadable("samples that are infinite or no number")
    if "transparency" in image.info:  # the one colour that a PNG may call so
        clear = values == image.info["transparency"]
        alpha = 1 - (clear if grey else clear.all(-1)).astype(np.float32)
    seen = values if alpha is None else values[alpha > 0]
    if not seen.size:
        raise Unreadable(TRANSPARENT)
    used = Span(seen.min().item(), seen.max().item())
    ranges = [[np.ravel(tags[tag]) for tag in pair] for pair in TIFF_RANGES if all(tag in tags for tag in pair)]
    declared = [Span(float(low.min()), float(high.max())) for low, high in ranges]
    significant = _significant_bits(content) if image.format == "PNG" else None
    if bits == 12:
        declared.append(Span(0, 4095))
    if significant == 16:
        declared.append(Span(0, 65535))
    return Samples(
        values,
        alpha,
        Kind(type_, significant if significant != 16 else None),
        used,
        depth.bright(seen.reshape(-1, 1 if values.ndim == 2 else 3)),
        # A range that the samples leave is not theirs.
        next((span for span in declared if span.low < span.high and span.holds(used)), None),
        inverted=tags.get(PHOTOMETRIC) == 0,
    )


def _shown(samples: Samples, background: str, spans: Mapping[Kind, Span]) -> Image.Image | None:
    """How they look in RGB of 8 bits, if their range is known."""
    span = samples.declared or spans.get(samples.kind)
    return span and Image.fromarray(samples.shown(span, ImageColor.getrgb(background)))


def _colours(content: bytes, layout: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours of an image of 16 bits, uint16 [height, width, 3], or [height, width] if grey, and alpha in 0..1."""

    def loaded(layout: str) -> np.ndarray:
        image = _opened(content)
        image.tile = [
            tile._replace(args=(layout, *tile.args[1:]) if isinstance(tile.args, tuple) else layout)
            for tile in image.tile
        ]
        image.load()
        return np.asarray(_turned(image, image)).astype(np.uint16)

    if layout.startswith("LA"):
        grey, grey_low, alpha, alpha_low = np.moveaxis(loaded("RGBA"), -1, 0)
        return 256 * grey + grey_low, (256 * alpha + alpha_low).astype(np.float32) / 65535
    # Pillow keeps the high byte of two. Told that they lie the other way round, it keeps the low one.
    straight, order = layout[:-1].replace("a;", "A;"), layout[-1]
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[order]
    values = 256 * loaded(straight + order) + loaded(straight + other)
    if values.shape[-1] == 3:
        return values, None
    colours, alpha = values[..., :3], values[..., 3].astype(np.float32) / 65535
    if "a;" in layout:  # multiplied by alpha already
        colours = (colours / np.maximum(alpha, 1e-6)[..., None]).clip(0, 65535).astype(np.uint16)
    return colours, alpha


def _significant_bits(content: bytes) -> int | None:
    """The most bits that a PNG's sBIT gives to a colour; None if it has no such chunk."""
    position = 8
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        if name == b"sBIT":
            # Grey, or red, green and blue, and alpha after them.
            return max(content[position + 8 : position + 8 + (3 if length > 2 else 1)])
        if name == b"IDAT":
            break
        position += length + 12
    return None

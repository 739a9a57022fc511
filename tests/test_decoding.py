"""What an image file shows: by arithmetic on what was written into it."""

import io
import struct

import numpy as np
import pytest
from picture_files import png_chunk, png_file, tiff_file
from PIL import Image
from preparing import encoded

from bitlite.images import decoding, depth
from bitlite.images.depth import Kind, Span, Unreadable

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(256, size=(9, 14, 3), dtype=np.uint8)


def shown(content: bytes, **settings) -> np.ndarray:
    return np.asarray(decoding.upright_rgb(content, **settings), int)


def set_shown(*contents: bytes) -> list[np.ndarray]:
    """The images of a set that consists of these files."""
    seen = [decoding.see(content) for content in contents]
    kinds = {image.kind for image in seen if not image.declared}
    spans = {kind: depth.span(kind, [image.used for image in seen if image.kind == kind]) for kind in kinds}
    return [shown(content, spans=spans) for content in contents]


def levels(values, low, high) -> np.ndarray:
    """`low` to `high` as 0 to 255, in RGB."""
    grey = np.rint((np.asarray(values, float) - low) * 255 / (high - low)).clip(0, 255).astype(int)
    return grey if grey.ndim == 3 else np.stack([grey] * 3, axis=-1)


def on(background, rgb, alpha) -> np.ndarray:
    """Laid on a background, alpha 0..1."""
    return np.asarray(rgb, float) * alpha[..., None] + (1 - alpha[..., None]) * np.array(background)


# Samples of more than 8 bits


def between(low, high, *shape, dtype="u2") -> np.ndarray:
    """Numbers between low and high, which are both among them."""
    values = RANDOM.integers(low, high, endpoint=True, size=shape or (9, 14)).astype(dtype)
    values.flat[0], values.flat[-1] = low, high
    return values


def grey_png(values: np.ndarray, **settings) -> bytes:
    return png_file(values, bits=16, color=0, **settings)


def s_bit(*bits: int) -> bytes:
    return png_chunk(b"sBIT", bytes(bits))


def tiff_of(values, **settings) -> bytes:
    return tiff_file(np.asarray(values), **settings)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (between(0, 65535), 0, 65535),
        (between(7, 4000), 0, 4095),
        (between(0, 200), 0, 255),
        (between(0, 300), 0, 511),
        (between(29_000, 31_000), 29_000, 31_000),
        (between(0, 1), 0, 1),
    ],
    ids=["16 bits", "12 bits", "8 bits", "9 bits", "a few of many", "a mask"],
)
def test_16_bits_are_shown_by_the_range_that_the_set_uses(values, low, high):
    for content in (grey_png(values), tiff_of(values), tiff_of(values, order=">"), tiff_of(values, deflate=True)):
        np.testing.assert_array_equal(set_shown(content)[0], levels(values, low, high))


def test_the_range_is_that_of_all_images_of_a_kind():
    dim, bright, floats = between(0, 900), between(0, 4095), between(0, 1, dtype="f4")
    contents = grey_png(dim), tiff_of(bright), tiff_of(floats)
    for image, values, high in zip(set_shown(*contents), (dim, bright, floats), (4095, 4095, 1), strict=True):
        np.testing.assert_array_equal(image, levels(values, 0, high))


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (between(-1024, 3071, dtype="i2"), -1024, 3071),
        (between(-(2**31), 2**31 - 1, dtype="i4"), -(2**31), 2**31 - 1),
        (between(0, 2**32 - 1, dtype="u4"), 0, 2**32 - 1),
        (between(0, 60_000, dtype="i4"), 0, 65535),
        (between(2 * 10**9, 2 * 10**9 + 85, dtype="i4"), 2 * 10**9, 2 * 10**9 + 85),
        (between(0, 1000, dtype="f4") / np.float32(1000), 0, 1),
        (between(0, 65535, dtype="f4"), 0, 65535),
        (between(0, 255, dtype="f4"), 0, 255),
        (between(-2, 6, dtype="f4"), -2, 6),
        (between(-128, 127, dtype="i1"), -128, 127),
    ],
    ids=["int16", "int32", "uint32", "16 bits", "a few of many", "0..1", "0..65535", "0..255", "negative", "int8"],
)
def test_signed_long_and_float_tiffs(values, low, high):
    (image,) = set_shown(tiff_of(values))
    assert np.abs(image - levels(values, low, high)).max() <= (values.dtype.kind == "f")
    assert image.min() == 0 and image.max() > 230


def test_declared_bits_hold_even_if_the_set_uses_less():
    values = between(0, 100)
    for content, high in (
        (grey_png(values, before=s_bit(12)), 4095),
        (grey_png(values, before=s_bit(16)), 65535),
        (png_file(np.stack([values] * 3, -1), bits=16, color=2, before=s_bit(9, 10, 10)), 1023),
    ):
        np.testing.assert_array_equal(set_shown(content)[0], levels(values, 0, high))


def test_significant_bits_may_be_the_upper_ones_as_png_has_it():
    low = between(0, 4095)
    upper = low << 4 | low >> 8
    np.testing.assert_array_equal(set_shown(grey_png(upper, before=s_bit(12)))[0], levels(low, 0, 4095))


def test_tiff_of_12_bits_packed():
    values = between(0, 500, 4, 6)
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(4, 6, 2), axis=-1)[..., 4:]
    packed = np.packbits(bits.reshape(4, -1), axis=-1)
    content = tiff_file(packed, {256: (4, [6]), 258: (3, [12])})
    np.testing.assert_array_equal(shown(content), levels(values, 0, 4095))


@pytest.mark.parametrize("tags", [(280, 281), (340, 341)], ids=["MinSampleValue", "SMinSampleValue"])
def test_tiff_s_own_range_counts_unless_its_samples_leave_it(tags):
    values = between(1000, 2000)
    for limits, expected in (((500, 2500), (500, 2500)), ((0, 1500), (0, 2047)), ((0, 0), (0, 2047))):
        content = tiff_of(values, tags={tag: (3, [limit]) for tag, limit in zip(tags, limits, strict=True)})
        np.testing.assert_array_equal(set_shown(content)[0], levels(values, *expected))


def test_white_may_be_zero():
    for values, high in ((between(0, 65535), 65535), (between(0, 4095), 4095)):
        (image,) = set_shown(tiff_of(values, white_is_zero=True))
        assert np.abs(image - (255 - levels(values, 0, high))).max() <= 1


@pytest.mark.parametrize("high", [65535, 4095])
def test_colours_of_16_bits(high):
    values = between(0, high, 9, 14, 3)
    for content in (
        png_file(values, bits=16, color=2),
        tiff_of(values),
        tiff_of(values, order=">"),
        tiff_of(values, deflate=True),
        tiff_of(values, order=">", deflate=True),
    ):
        np.testing.assert_array_equal(set_shown(content)[0], levels(values, 0, high))


def test_transparency_of_16_bits_is_laid_on_the_background():
    grey, colours, alpha = between(0, 4095), between(0, 4095, 9, 14, 3), between(0, 65535)
    for content, values in (
        (png_file(np.dstack([grey, alpha]), bits=16, color=4), grey),
        (png_file(np.dstack([colours, alpha]), bits=16, color=6), colours),
        (tiff_of(np.dstack([colours, alpha]), tags={338: (3, [2])}), colours),
    ):
        seen = decoding.see(content)
        image = shown(content, background="#102030", spans={seen.kind: Span(0, 4095)})
        expected = on((16, 32, 48), levels(values, 0, 4095), alpha / 65535)
        assert np.abs(image - expected).max() <= 1


def test_colours_of_16_bits_multiplied_by_alpha():
    colours, alpha = between(0, 65535, 9, 14, 3), between(20_000, 65535)
    multiplied = (colours * (alpha / 65535)[..., None]).astype(np.uint16)
    content = tiff_of(np.dstack([multiplied, alpha]), tags={338: (3, [1])})
    assert np.abs(set_shown(content)[0] - on((255,) * 3, colours / 257, alpha / 65535)).max() <= 1


def test_the_transparent_colour_of_a_png_of_16_bits():
    grey, colours = between(0, 4095), between(0, 4095, 9, 14, 3)
    for content, values, clear in (
        (grey_png(grey, before=png_chunk(b"tRNS", struct.pack(">H", grey[3, 4]))), grey, grey == grey[3, 4]),
        (
            png_file(colours, bits=16, color=2, before=png_chunk(b"tRNS", struct.pack(">3H", *colours[3, 4]))),
            colours,
            (colours == colours[3, 4]).all(-1),
        ),
    ):
        expected = levels(values, 0, 4095)
        expected[clear] = 255
        np.testing.assert_array_equal(set_shown(content)[0], expected)


def test_transparent_pixels_do_not_widen_the_range():
    """Where 65535 stands for no value, as in maps and scans."""
    values = between(0, 4095)
    values[2, 3] = 65535
    (image,) = set_shown(grey_png(values, before=png_chunk(b"tRNS", struct.pack(">H", 65535))))
    values[2, 3] = 4095
    np.testing.assert_array_equal(image, levels(values, 0, 4095))


@pytest.mark.parametrize("turn", [6, 3, 5])
def test_samples_of_16_bits_are_turned(turn):
    values = between(0, 65535)
    stored = {6: np.rot90(values), 3: values[::-1, ::-1], 5: values.T}[turn]
    for content in (
        grey_png(stored, before=png_chunk(b"eXIf", exif(turn))),
        grey_png(stored, after=png_chunk(b"eXIf", exif(turn))),
        tiff_of(stored, tags={274: (3, [turn])}),
    ):
        np.testing.assert_array_equal(set_shown(content)[0], levels(values, 0, 65535))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff_of(np.array([[0, np.nan]], "f4")), "infinite or no number"),
        (tiff_of(np.array([[0, np.inf]], "f4")), "infinite or no number"),
        (tiff_of(np.zeros((2, 2), "f8")), "TIFF whose samples can't be read"),
        (tiff_of(np.zeros((2, 2), "f2")), "TIFF whose samples can't be read"),
        (tiff_of(np.zeros((2, 2, 3), "f4")), "TIFF whose samples can't be read"),
        (tiff_of(np.zeros((2, 2, 3), "u2"), tags={284: (3, [2])}), "in separate planes, to be saved as PNG"),
        (tiff_of(np.zeros((2, 2, 4), "u2"), tags={262: (3, [5])}), "in CMYK, to be converted to RGB"),
        (tiff_of(np.zeros((2, 2, 5), "u1")), "TIFF whose samples can't be read .*, to be saved in grey or RGB alone"),
        (encoded(Image.new("L", (8, 8)), "JPEG").replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"), "12-bit"),
    ],
    ids=["NaN", "infinite", "float64", "float16", "float colours", "planes", "CMYK", "5 bands", "JPEG of 12 bits"],
)
def test_samples_that_can_t_be_shown_are_refused_with_the_reason(content, reason):
    with pytest.raises(Unreadable, match=reason):
        decoding.see(content)


def test_without_a_range_samples_are_refused():
    with pytest.raises(Unreadable, match="uint16 samples of which it is not known what is black"):
        decoding.upright_rgb(grey_png(between(0, 9)))
    with pytest.raises(Unreadable, match="all uint16 samples of the set are 7"):
        depth.span(Kind("uint16"), [Span(7, 7), Span(7, 7)])


# Transparency


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_laid_on_the_background(kind):
    alpha = RANDOM.integers(256, size=RGB.shape[:2], dtype=np.uint8)
    settings = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = encoded(Image.fromarray(np.dstack([RGB, alpha])), kind, **settings)
    for name, colour in (("white", (255, 255, 255)), ("#0a141e", (10, 20, 30))):
        assert np.abs(shown(content, background=name) - on(colour, RGB, alpha / 255)).max() <= 1


def test_black_drawn_on_nothing_is_seen():
    image = Image.new("RGBA", (64, 64))
    image.paste((0, 0, 0, 255), (5, 5, 25, 25))
    for content in (encoded(image, "PNG"), encoded(image.convert("LA"), "PNG"), encoded(image, "GIF")):
        pixels = shown(content)
        assert (pixels[5:25, 5:25] == 0).all() and (pixels == 0).all(-1).sum() == 400 and (pixels == 255).any()


def test_transparent_colour_of_a_palette():
    indices = RANDOM.integers(4, size=(9, 14))
    palette = RANDOM.integers(200, size=(4, 3), dtype=np.uint8)
    chunks = png_chunk(b"PLTE", palette.tobytes()) + png_chunk(b"tRNS", bytes([255, 0, 51]))
    opacity = np.array([255, 0, 51, 255])[indices] / 255
    content = png_file(indices, bits=8, color=3, before=chunks)
    assert np.abs(shown(content) - on((255,) * 3, palette[indices], opacity)).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_grey_of_a_png_of_few_bits(bits):
    values = RANDOM.integers(2**bits, size=(9, 14))
    clear = values[2, 3]
    content = png_file(values, bits=bits, color=0, before=png_chunk(b"tRNS", struct.pack(">H", clear)))
    expected = levels(values, 0, 2**bits - 1)
    expected[values == clear] = 128
    np.testing.assert_array_equal(shown(content, background="#808080"), expected)


def test_transparent_colour_of_a_png():
    content = png_file(RGB, bits=8, color=2, before=png_chunk(b"tRNS", struct.pack(">3H", *RGB[2, 3])))
    expected = RGB.astype(int)
    expected[np.all(RGB[2, 3] == RGB, axis=-1)] = 255
    np.testing.assert_array_equal(shown(content), expected)


def test_an_image_of_which_nothing_is_seen_is_refused():
    nothing = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    a_pixel = nothing.copy()
    a_pixel[3, 3, 3] = 1
    deep = np.dstack([between(0, 4095, 9, 14, 3), np.zeros((9, 14), int)])
    for content in (
        encoded(Image.fromarray(nothing), "PNG"),
        encoded(Image.fromarray(nothing[:400, :400]), "WEBP", lossless=True),
        png_file(deep, bits=16, color=6),
    ):
        with pytest.raises(Unreadable, match="all pixels are transparent"):
            decoding.see(content)
    decoding.see(encoded(Image.fromarray(a_pixel), "PNG"))
    sparse = np.zeros((500, 500, 4), np.uint8)
    sparse[0, 0] = 0, 0, 0, 255
    decoding.see(encoded(Image.fromarray(sparse), "PNG"))


# Turns and EXIF


def exif(orientation: int, kind=3) -> bytes:
    """EXIF of one entry, the orientation, as the type of this number."""
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x112, kind, 1, orientation, 0) + bytes(4)


STORED = {
    1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB),
    7: np.rot90(RGB, 2).transpose(1, 0, 2), 8: np.rot90(RGB, -1),
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
def test_images_are_turned_as_exif_says(orientation):
    stored = np.ascontiguousarray(STORED[orientation])
    image, tag = Image.fromarray(stored), exif(orientation)
    for content in (
        png_file(stored, bits=8, color=2, before=png_chunk(b"eXIf", tag)),
        png_file(stored, bits=8, color=2, after=png_chunk(b"eXIf", tag)),
        encoded(image, "WEBP", lossless=True, exif=tag),
        tiff_file(stored, {274: (3, [orientation])}),
        tiff_file(stored, {274: (3, [orientation])}, deflate=True),
    ):
        np.testing.assert_array_equal(shown(content), RGB)
    jpeg = encoded(image, "JPEG", exif=b"Exif\0\0" + tag, quality=100, subsampling=0)
    assert np.abs(shown(jpeg) - RGB).mean() < 3


BROKEN = {
    "garbage": b"garbage!",
    "beyond the end": b"II*\0\xff\xff\0\0",
    "cut": exif(6)[:14],
    "text for the orientation": exif(6, kind=2),
    "no such orientation": exif(9),
    "orientation 0": exif(0),
    "empty": b"",
}


@pytest.mark.filterwarnings("ignore:.*EXIF")
@pytest.mark.parametrize("tag", BROKEN.values(), ids=BROKEN)
def test_broken_exif_does_not_cost_the_picture(tag):
    image = Image.fromarray(RGB)
    for content in (
        encoded(image, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0" + tag),
        encoded(image, "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0" + tag, dpi=(72, 72)),
        encoded(image, "WEBP", lossless=True, exif=tag),
        png_file(RGB, bits=8, color=2, before=png_chunk(b"eXIf", tag)),
        png_file(RGB, bits=8, color=2, after=png_chunk(b"eXIf", tag)),
    ):
        assert np.abs(shown(content) - RGB).mean() < 3
        decoding.see(content)


@pytest.mark.filterwarnings("ignore:.*EXIF")
def test_broken_exif_of_a_tiff_does_not_cost_the_picture():
    np.testing.assert_array_equal(shown(tiff_file(RGB, {34665: (4, [999_999])})), RGB)


# Colours of print


def flat_cmyk(colour: tuple[int, int, int, int]) -> bytes:
    return encoded(Image.new("CMYK", (16, 16), colour), "JPEG", quality=100)


def test_cmyk_is_read_as_adobe_writes_it():
    """Ink of 0 is no ink, though Adobe's JPEGs hold its complement."""
    for ink in ((0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (40, 100, 20, 60)):
        expected = [(255 - each) * (255 - ink[3]) / 255 for each in ink[:3]]
        assert np.abs(shown(flat_cmyk(ink)) - expected).max() <= 2


def test_ycck_is_read_as_adobe_writes_it():
    """Components are luma and two chromas of the inks as if these were red, green and blue, and black's complement."""
    components = 90, 140, 120, 200
    # Pillow stores the complement of what it is given, and calls it CMYK: here it is called YCCK.
    content = flat_cmyk(tuple(255 - each for each in components))
    adobe = content.index(b"Adobe") + 11
    content = content[:adobe] + b"\x02" + content[adobe + 1 :]
    luma, blue, red, black = components
    colours = [luma + 1.402 * (red - 128), luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128)]
    colours.append(luma + 1.772 * (blue - 128))
    expected = [(255 - colour) * black / 255 for colour in colours]
    assert np.abs(shown(content) - expected).max() <= 2


# What an image is known by


def test_an_image_is_known_in_any_lossless_file_and_turn():
    for size in ((9, 14), (400, 650), (651, 401), (520, 1024)):
        pixels = RANDOM.integers(256, size=(*size, 3), dtype=np.uint8)
        image, turned = Image.fromarray(pixels), Image.fromarray(np.ascontiguousarray(np.rot90(pixels)))
        contents = [
            encoded(image, "PNG"),
            encoded(image, "PNG", compress_level=0),
            encoded(image, "WEBP", lossless=True),
            encoded(image, "BMP"),
            encoded(image, "TIFF", compression="tiff_lzw"),
            encoded(turned, "PNG", exif=exif(6)),
            encoded(turned, "WEBP", lossless=True, exif=exif(6)),
        ]
        assert len({decoding.see(content).sketch for content in contents}) == 1
        assert len({decoding.digest(content) for content in contents}) == 1
        assert decoding.see(contents[0]).exact == (min(size) < 3 * decoding.SKETCH)


def test_a_jpeg_is_known_as_the_png_of_its_pixels():
    image = Image.fromarray(RGB)
    for jpeg in (encoded(image, "JPEG", exif=exif(6)), encoded(image.convert("L"), "JPEG"), flat_cmyk((9, 8, 7, 6))):
        png = encoded(decoding.upright_rgb(jpeg), "PNG")
        assert decoding.see(png).sketch == decoding.see(jpeg).sketch


def test_one_level_of_one_pixel_makes_another_image():
    pixels = RANDOM.integers(255, size=(400, 650, 3), dtype=np.uint8)
    other = pixels.copy()
    other[0, 1, 2] += 1
    one, another = (encoded(Image.fromarray(each), "PNG") for each in (pixels, other))
    assert decoding.digest(one) != decoding.digest(another)
    small, changed = (encoded(Image.fromarray(each[:50, :50]), "PNG") for each in (pixels, other))
    assert decoding.see(small).sketch != decoding.see(changed).sketch


def test_deep_samples_are_known_as_what_is_shown_of_them():
    for size in ((9, 14), (400, 650)):
        grey = RANDOM.integers(256, size=size, dtype=np.uint8)
        eight, sixteen = encoded(Image.fromarray(grey), "PNG"), grey.astype(np.uint16) * 257
        spans = {Kind("uint16"): Span(0, 65535)}
        for content in (grey_png(sixteen), tiff_of(sixteen, order=">"), grey_png(sixteen, before=s_bit(16))):
            seen, same = decoding.see(content, spans=spans), decoding.see(eight)
            assert (seen.sketch, seen.exact, seen.look) == (same.sketch, same.exact, same.look)
            assert decoding.digest(content, spans=spans) == decoding.digest(eight)
        changed = sixteen.copy()
        changed[0, 0] ^= 256
        assert decoding.digest(grey_png(changed), spans=spans) != decoding.digest(eight)
        assert decoding.see(grey_png(sixteen)).sketch is None


def test_hot_pixels_make_no_image_bright():
    for values in (between(0, 4095), between(0, 4095, 9, 14, 3), between(0, 4095, 60, 50)):
        values[2, 3] = 65535
        seen = decoding.see(tiff_of(values))
        assert seen.used.high == 65535 and 4000 < seen.bright <= 4095


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_own_bytes_are_kept_where_all_decoders_agree(kind):
    image = Image.fromarray(RGB)
    for mode in ("RGB", "L"):
        assert decoding.see(encoded(image.convert(mode), kind)).kept
    assert decoding.see(encoded(image, kind, exif=exif(6))).kept == (kind == "JPEG")
    if kind == "PNG":
        for mode in ("RGBA", "LA", "P", "1"):
            assert not decoding.see(encoded(image.convert(mode), kind)).kept
        clear = png_chunk(b"tRNS", struct.pack(">3H", *RGB[2, 3]))
        assert not decoding.see(png_file(RGB, bits=8, color=2, before=clear)).kept
        assert not decoding.see(grey_png(between(0, 65535))).kept


def test_mpo_is_a_jpeg():
    image = Image.fromarray(RGB)
    content = encoded(image, "MPO", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert decoding.see(content).kept
    np.testing.assert_array_equal(shown(content), shown(encoded(image, "JPEG")))


def test_only_the_first_frame_is_shown():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(shown(content) - (255, 0, 0)).max() <= 3

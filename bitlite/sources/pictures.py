"""Which files are meant as images, and why one can't be read: by their names and their first bytes."""

import os
import re
from collections.abc import Collection

from PIL import Image, UnidentifiedImageError

from bitlite.images.depth import Unreadable
from bitlite.workflow.errors import one_line

# How the names of files end that are decoded, in lower case.
DECODED = {".apng", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
# Cameras' raw files. Many are TIFF by their first bytes, with a thumbnail as their first image.
RAW = {
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
    ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
}  # fmt: skip
# Pictures in other formats.
OTHER = {
    ".avif", ".dcm", ".eps", ".exr", ".hdr", ".heic", ".heif", ".hif", ".icns", ".ico", ".j2k", ".jp2", ".jpf", ".jpx",
    ".jxl", ".jxr", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".tga",
}  # fmt: skip
NOT_DECODED = RAW | OTHER
PICTURES = DECODED | NOT_DECODED
# What file managers, network drives and archives leave beside one's files, in lower case; hidden files are no less.
LITTER = {
    "#recycle", "#snapshot", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx",
    "__pycache__", "desktop.ini", "ehthumbs.db", "ehthumbs_vista.db", "found.000", "icon\r", "lost+found",
    "network trash folder", "system volume information", "temporary items", "thumbs.db",
}  # fmt: skip
# First bytes of the formats that are decoded.
MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n|BM.{4}\0{4}|RIFF.{4}WEBP|GIF8[79]a|II\*\0|MM\0\*", re.DOTALL)

RAW_REASON = "raw files of cameras, to be exported as JPEG"
# First bytes of what stands under the names of images, and what to do about it.
FOREIGN = {
    rb"\Z": "empty",
    rb"\0+\Z": "nothing but zeros, as a broken copy leaves them",
    rb"....ftyp(hei|hev|mif1|msf1)": "HEIC, as phones take photos, to be converted to JPEG",
    rb"....ftypavi[fs]": "AVIF, to be converted to JPEG or PNG",
    rb"....ftypcrx": RAW_REASON,
    rb"....ftyp|\x1aE\xdf\xa3": "videos",
    rb"\xff\x0a|\0\0\0\x0cJXL": "JPEG XL, to be converted to JPEG or PNG",
    rb"\0\0\0\x0cjP|\xff\x4f\xff\x51": "JPEG 2000, to be converted to JPEG or PNG",
    rb"8BPS": "Photoshop's, to be exported as PNG",
    rb"%PDF": "PDF, to be exported as PNG",
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg": "SVG, to be exported as PNG",
    rb"(?i)(\xef\xbb\xbf)?\s*(<!doctype html|<html)": "web pages, as failed downloads leave them",
    rb"version https://git-lfs": "pointers of Git LFS, to be fetched by `git lfs pull`",
    rb"\0\x05\x16\x07": "AppleDouble files, which a Mac puts beside its own",
    rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!": "archives, to be unpacked",
}


def is_litter(name: str) -> bool:
    """Whether nobody means a file or folder of this name to be looked at."""
    # Windows writes down as NAME:Zone.Identifier that a file was downloaded.
    return name.startswith(".") or name.lower() in LITTER or name.endswith(":Zone.Identifier")


def meant_as_image(path: str) -> bool:
    """Whether the file is a picture by the end of its name or, if that says nothing, by its first bytes."""
    if suffix(path) in PICTURES:
        return True
    try:
        with open(path, "rb") as file:
            return bool(MAGIC.match(file.read(16)))
    except OSError:
        return False


def without_companions(paths: Collection[str]) -> set[str]:
    """Images without those in formats that are not decoded beside which stands one that is, of the same name."""
    others = {path for path in paths if suffix(path) in NOT_DECODED}
    if not others:
        return set(paths)
    stems = {os.path.splitext(path)[0] for path in others}
    shown = {stem for path in paths if suffix(path) in DECODED and (stem := os.path.splitext(path)[0]) in stems}
    return {path for path in paths if path not in others or os.path.splitext(path)[0] not in shown}


def is_raw(path: str) -> bool:
    """Whether a camera's raw file has this name."""
    return suffix(path) in RAW


def suffix(path: str) -> str:
    """The end of a file's name from its last dot on, in lower case, which tells its kind; or nothing."""
    return os.path.splitext(path)[1].lower()


def reason(path: str, error: Exception) -> str:
    """Why the file can't be read as an image, which a decoder or the system told by `error`."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    with open(path, "rb") as file:
        return fault(file.read(1024), os.path.getsize(path), error)


def fault(content: bytes, size: int, error: Exception) -> str:
    """What is wrong with a file of `size` bytes that begins with `content`, of which a decoder told by `error`."""
    if isinstance(error, Unreadable):
        return str(error)
    for start, foreign in FOREIGN.items():
        if re.match(start, content, re.DOTALL):
            return foreign
    if isinstance(error, Image.DecompressionBombError) and Image.MAX_IMAGE_PIXELS:
        return f"more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} megapixels, to be made smaller"
    # libwebp does not tell what is wrong. A RIFF file says how long it is.
    shorter = content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") + 8 > size
    if shorter or "truncated" in str(error).lower():
        return "truncated"
    if isinstance(error, UnidentifiedImageError):
        return "damaged" if MAGIC.match(content) else str(error)
    return f"damaged, {re.sub(' *[0-9]+', '', one_line(error))}"

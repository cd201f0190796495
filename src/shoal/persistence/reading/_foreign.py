"""Guess the format of a file that neither `dump` nor joblib has written. Used only if the file could not be loaded."""

from __future__ import annotations

import codecs
import re
from typing import Any

from shoal.errors import CorruptFile, ForeignFile
from shoal.persistence._format import NAME
from shoal.persistence.compression import COMPRESSORS, detect
from shoal.persistence.compression._decompress import DecompressFile
from shoal.persistence.reading._start import Start

#: The number of bytes of a file that are looked at.
HEAD_BYTES = 1024

_BEGINNINGS = {
    b"\x93NUMPY": "a .npy file: numpy.load() reads it",
    b"PK\x05\x06": "an empty zip archive",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file: h5py, pandas or keras reads it",
    b"PAR1": "a Parquet file: pandas.read_parquet() reads it",
    b"ARROW1": "an Arrow file: pandas.read_feather() or pyarrow reads it",
    b"\x89PNG\r\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF-": "a PDF document",
    b"SQLite format 3\0": "an SQLite database",
    b"\x7fELF": "a program or a library",
    b"MATLAB 5.0": "a .mat file: scipy.io.loadmat() reads it",
    b"CDF\x01": "a NetCDF file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"GGUF": "a GGUF model",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a document of Microsoft Office",
}
#: Kinds of zip archives, by a part of the first file name in the archive.
_ZIPS = {
    "data.pkl": "a file of torch.save(): torch.load() reads it",
    ".format_version": "a file of torch.save(): torch.load() reads it",
    ".npy": "an .npz file: numpy.load() reads it",
    "[Content_Types].xml": "a document of Microsoft Office",
    "_rels/": "a document of Microsoft Office",
    "metadata.json": "a zip archive, perhaps a model of keras",
    "META-INF/": "a Java archive",
}
_TEXTS = {
    "<!doctype html": "an HTML page: a server may have sent it instead of the file",
    "<html": "an HTML page: a server may have sent it instead of the file",
    "<": "XML",
    "version https://git-lfs": "a pointer of Git LFS instead of the file: `git lfs pull` fetches the file",
    "{": "JSON",
    "[": "JSON",
}
#: The first bytes of compressed files (zlib at the usual levels, bz2) that could be taken for text.
_COMPRESSED = (b"x\x01", b"x^", b"x\x9c", b"x\xda", b"BZh")
#: A line that puts an object into the memo. Pickles of protocol 0 have many.
_MEMOISED = re.compile(rb"^.{0,4}p\d+$", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")


def foreign_error(error: CorruptFile, start: Start) -> ForeignFile | None:
    """Return the error to raise instead of `error` if the file was not written by dump or joblib; else None.

    Return None also if the file cannot seek, because it cannot be looked at again then.
    """
    looks_like = None if start.left is None else seems_to_be(start.file, start.begin)
    return None if looks_like is None else ForeignFile(error.name, looks_like)


def seems_to_be(file: Any, begin: int) -> str | None:
    """Return what a file that could not be loaded looks like; None if it looks like a damaged file of dump or joblib.

    Parameters
    ----------
    file
        Can seek. Afterwards it stands at `begin`.
    begin
        The position in the file, in bytes, where an object should begin.
    """
    try:
        return _seems_to_be(file, begin)
    finally:
        file.seek(begin)


def _seems_to_be(file: Any, begin: int) -> str | None:
    file.seek(begin)
    head = file.read(HEAD_BYTES)
    kind, compressor = kind_of(head), detect(head)
    record = COMPRESSORS.get(compressor or "")
    if kind is None and record is not None and record.decompressor is not None:
        file.seek(begin)
        try:
            inside = DecompressFile(file, record.decompressor).read(HEAD_BYTES)
        except Exception:  # the compressed data are damaged, which explains the error
            return None
        inner = kind_of(inside) if inside else "an empty file"
        return inner and f"{inner} (compressed by {compressor})"
    if kind is None and compressor is None and not _may_be_a_pickle(head):
        return f"a file of an unknown format: it begins with {head[:8]!r}"
    return kind


def kind_of(head: bytes) -> str | None:
    """Return the format of a file that begins with `head`; None if `head` does not tell."""
    for beginning, kind in _BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    if head.startswith(b"PK\x03\x04"):
        size = int.from_bytes(head[26:28], "little")
        name = head[30 : 30 + size].decode("utf-8", "replace")
        return next((kind for part, kind in _ZIPS.items() if part in name), "a zip archive")
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[8:10] == b'{"' and head[2:8] == bytes(6):
        return "a file of safetensors"
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> str | None:
    if not head or _MEMOISED.search(head) or head.startswith(_COMPRESSED):
        return None
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "text (UTF-16)"
    try:
        # An incremental decoder, because the last character may be cut off.
        text = codecs.getincrementaldecoder("utf-8")().decode(head).lstrip("\ufeff")
    except UnicodeDecodeError:
        text = head.decode("latin-1")
    if _CONTROL.search(text):
        return None
    for beginning, kind in _TEXTS.items():
        if text.lstrip().lower().startswith(beginning):
            return kind
    lines = text.splitlines()[:10]
    whole = lines[:-1] if len(head) == HEAD_BYTES and len(lines) > 1 else lines
    for mark, kind in ((",", "a CSV table"), (";", "a CSV table"), ("\t", "a table of values separated by tabs")):
        if len({line.count(mark) for line in whole} - {0}) == 1 and all(mark in line for line in whole):
            return f"{kind}: pandas.read_csv() reads it"
    return "text"


def _may_be_a_pickle(head: bytes) -> bool:
    """Tell whether a file may have been a pickle. The first byte may be damaged, like any other."""
    import pickletools

    first = head[:1].decode("latin-1")
    if any(first == opcode.code for opcode in pickletools.opcodes):
        return True
    return NAME in head[:16] or b"joblib" in head or b"numpy" in head or head[2:3] == b"\x95"

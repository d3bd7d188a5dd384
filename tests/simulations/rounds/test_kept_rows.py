"""What clients keep lies in sparse files: little disk, any number of clients, and a damaged file says so."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from simulations.rounds.store import ClientRows
from wire.errors import StoreError


def test_ten_thousand_clients_of_half_a_million_values_take_the_disk_of_those_who_wrote(tmp_path: Path) -> None:
    path, row_size = tmp_path / "fc1.rows", 500_000
    rows = ClientRows(path, 10_000, row_size)
    writers = [0, 4_999, 9_999]
    values = torch.arange(3 * row_size, dtype=torch.float32).view(3, row_size)
    rows.write(writers, values)
    assert path.stat().st_size > 20e9
    assert path.stat().st_blocks * 512 < 4 * values.numel() + 10_000 + 100_000
    assert torch.equal(rows.read(writers), values)
    assert np.flatnonzero(rows.known(range(10_000))).tolist() == writers


def test_rows_survive_their_process_and_are_shared_by_others(tmp_path: Path) -> None:
    path = tmp_path / "fc1.rows"
    first, second = ClientRows(path, 5, 3), ClientRows(path, 5, 3)
    values = torch.tensor([[1.0, 2.0, float("nan")], [4.0, 5.0, -0.0]])
    first.write([4, 1], values)
    assert second.known([0, 1, 2, 3, 4]).tolist() == [False, True, False, False, True]
    del first
    again = ClientRows(path, 5, 3)
    assert again.read([4, 1]).numpy().tobytes() == second.read([4, 1]).numpy().tobytes() == values.numpy().tobytes()


def test_a_later_row_replaces_the_earlier_and_leaves_the_neighbors(tmp_path: Path) -> None:
    rows = ClientRows(tmp_path / "fc1.rows", 3, 2)
    rows.write([0, 1, 2], torch.arange(6.0).view(3, 2))
    rows.write([1], torch.full((1, 2), -1.0))
    assert rows.read([0, 1, 2]).tolist() == [[0, 1], [-1, -1], [4, 5]]


def test_what_was_read_can_be_changed_without_the_file(tmp_path: Path) -> None:
    rows = ClientRows(tmp_path / "fc1.rows", 2, 2)
    rows.write([0], torch.ones(1, 2))
    rows.read([0]).zero_()
    assert rows.read([0]).tolist() == [[1, 1]]


def test_rows_need_not_lie_in_a_row(tmp_path: Path) -> None:
    rows = ClientRows(tmp_path / "fc1.rows", 2, 3)
    rows.write([0, 1], torch.arange(6.0).view(3, 2).t())
    assert rows.read([0, 1]).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_nobody_reads_and_writes_nothing(tmp_path: Path) -> None:
    rows = ClientRows(tmp_path / "fc1.rows", 2, 3)
    rows.write([], torch.zeros(0, 3))
    assert rows.read([]).shape == (0, 3)


@pytest.mark.parametrize(("size", "where"), [(3 + 20, "client 2's row"), (2, "the list of who has a row")])
def test_a_file_that_was_cut_off_says_so(size: int, where: str, tmp_path: Path) -> None:
    path = tmp_path / "fc1.rows"
    rows = ClientRows(path, 3, 2)
    rows.write([0, 1, 2], torch.ones(3, 2))
    os.truncate(path, size)
    with pytest.raises(StoreError, match=f"{where}: the file was cut off"):
        rows.known([2]) if size == 2 else rows.read([2])


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot keep what clients know in .*missing.*: No such file"):
        ClientRows(tmp_path / "missing" / "fc1.rows", 2, 3)

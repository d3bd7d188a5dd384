"""What stays of a closed round in the database: its plan, its report, its receipts, and what each device did."""

from __future__ import annotations

import sqlite3

import msgspec

from aggregator.round_report import ClosedRound

__all__ = ["add_round"]


def add_round(changes: sqlite3.Connection, closed: ClosedRound) -> None:
    """Keep a closed round, within a transaction."""
    report = closed.report
    place = (report.epoch, report.round_number)
    changes.execute(
        "INSERT OR REPLACE INTO rounds (epoch, round_number, plan, report) VALUES (?, ?, ?, ?)",
        (*place, msgspec.json.encode(closed.plan).decode(), msgspec.json.encode(report).decode()),
    )
    changes.executemany(
        "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?)",
        [(*place, *receipt) for receipt in closed.receipts.items()],
    )
    known = [(device_id,) for device_id in {*report.counted, *report.refused, *report.dropouts}]
    changes.executemany("INSERT OR IGNORE INTO devices (device_id) VALUES (?)", known)
    changes.executemany(
        "UPDATE devices SET counted = counted + 1, last_counted_at = datetime('now') WHERE device_id = ?",
        [(device_id,) for device_id in report.counted],
    )
    changes.executemany(
        "UPDATE devices SET refused = refused + 1, last_refusal = ? WHERE device_id = ?",
        [(reason, device_id) for device_id, reason in report.refused.items()],
    )
    changes.executemany(
        "UPDATE devices SET missed = missed + 1 WHERE device_id = ?", [(device_id,) for device_id in report.dropouts]
    )

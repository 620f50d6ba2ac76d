"""Rows of the ledger become values by the order of their columns."""

from __future__ import annotations

from dataclasses import fields

from scheduler_service.ledger.history.rows import runs
from scheduler_service.ledger.history.values import RunRow


def test_a_run_is_asked_for_in_the_order_of_its_fields() -> None:
    assert [column.name for column in runs().selected_columns] == [field.name for field in fields(RunRow)]

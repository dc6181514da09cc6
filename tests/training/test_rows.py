"""What the programs of training/ share."""

from __future__ import annotations

from rows import append_row, mean_and_spread, read_rows


def test_rows_come_back_but_for_a_line_that_a_kill_cut_short(tmp_path):
    path = tmp_path / "folder" / "rows.jsonl"
    assert read_rows(path) == []
    append_row(path, {"epoch": 1})
    append_row(path, {"epoch": 2})
    path.write_bytes(path.read_bytes()[:-3])
    assert read_rows(path) == [{"epoch": 1}]
    append_row(path, {"epoch": 3})
    assert read_rows(path) == [{"epoch": 1}, {"epoch": 3}]


def test_of_rows_with_one_key_the_newest_stays(tmp_path):
    path = tmp_path / "rows.jsonl"
    for seed, epoch, loss in ((0, 1, 9), (1, 1, 8), (0, 1, 7), (0, 2, 6)):
        append_row(path, {"seed": seed, "epoch": epoch, "loss": loss})
    assert [row["loss"] for row in read_rows(path, "seed", "epoch")] == [8, 7, 6]
    assert len(read_rows(path)) == 4


def test_a_mean_has_its_spread_from_two_values_on():
    assert mean_and_spread([0.9, 0.94]) == "92.00 ± 2.83 %"
    assert mean_and_spread([0.9]) == "90.00 %"
    assert mean_and_spread([2, 4], percent=False, digits=1) == "3.0 ± 1.4"

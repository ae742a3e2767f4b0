"""Tables lose nothing: not to a rerun, not to another process, not to a crash, not to a damaged file."""

import csv
import math
import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from dpsnn.errors import UsageError
from dpsnn.evaluation import tables

KEY = ("Model",)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "table.csv"


def leftovers(path: Path) -> list[str]:
    """What lies beside the table, but for the lock."""
    return sorted(f.name for f in path.parent.iterdir() if f != path and f.suffix != ".lock")


@pytest.mark.parametrize(
    "value, text",
    [
        (None, ""),
        (math.nan, ""),
        (math.inf, "inf"),
        (0.0, "0"),
        (98.76543210, "98.7654"),
        (1 / 3, "0.333333"),
        (1e-9, "1e-09"),
        (123456789.0, "1.23457e+08"),
        (123456789, "123456789"),
        (True, "True"),
        ("a, b", "a, b"),
    ],
)
def test_cell(value: object, text: str) -> None:
    assert tables.cell(value) == text


def test_rows_are_added_in_order(path: Path) -> None:
    tables.upsert(path, [{"Model": "b", "Acc": 0.5}, {"Model": "a", "Acc": None}], KEY)
    tables.upsert(path, [{"Model": "c", "Acc": 1.0}], KEY)
    assert path.read_text() == "Model,Acc\nb,0.5\na,\nc,1\n"
    assert leftovers(path) == []


def test_a_rerun_replaces_its_own_row_in_place(path: Path) -> None:
    tables.upsert(path, [{"Model": m, "Acc": 0.5} for m in "abc"], KEY)
    tables.upsert(path, [{"Model": "b", "Acc": 0.75}, {"Model": "d", "Acc": 0.25}], KEY)
    assert path.read_text() == "Model,Acc\na,0.5\nb,0.75\nc,0.5\nd,0.25\n"


def test_the_same_rows_again_give_the_same_bytes(path: Path) -> None:
    rows = [{"Model": m, "Acc": 1 / 3, "Note": "x, y"} for m in "abc"]
    tables.upsert(path, rows, KEY)
    before = path.read_bytes()
    tables.upsert(path, rows[1:2], KEY)
    assert path.read_bytes() == before


def test_a_key_of_two_columns(path: Path) -> None:
    rows = [{"Model": m, "Attacker": a, "MSE": 1.0} for m in "ab" for a in "xy"]
    tables.upsert(path, rows, tables.ATTACKER_KEY)
    tables.upsert(path, [{"Model": "b", "Attacker": "x", "MSE": 0.5}], tables.ATTACKER_KEY)
    assert path.read_text() == "Model,Attacker,MSE\na,x,1\na,y,1\nb,x,0.5\nb,y,1\n"


def test_other_rows_are_kept_to_the_letter(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(
        "Model,Acc,Remark\n"
        'old,0.30000000000000004,"said ""no"", twice"\n'
        "older,1e-0005,\n"
        "oldest,.5 ,ε = ∞\n"
        "new,1,mine\n"
    )
    tables.upsert(path, [{"Model": "new", "Acc": 0.5}], KEY)
    assert path.read_text() == (
        "Model,Acc,Remark\n"
        'old,0.30000000000000004,"said ""no"", twice"\n'
        "older,1e-0005,\n"
        "oldest,.5 ,ε = ∞\n"
        "new,0.5,\n"
    )


def test_new_columns_stand_where_the_evaluation_has_them(path: Path) -> None:
    tables.upsert(path, [{"Model": "a", "Acc": 1.0, "Remark": "x"}], KEY)
    tables.upsert(path, [{"Model": "b", "Epsilon": 2.0, "Acc": 3.0}], KEY)
    assert path.read_text() == "Model,Epsilon,Acc,Remark\na,,1,x\nb,2,3,\n"


def test_rows_that_somebody_doubled_are_kept_unless_they_are_ones_own(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("Model,Acc\na,1\na,2\nb,1\nb,2\n")
    tables.upsert(path, [{"Model": "b", "Acc": 3.0}], KEY)
    assert path.read_text() == "Model,Acc\na,1\na,2\nb,3\n"


@pytest.mark.parametrize("content", [b"", b"Model,Acc\n"])
def test_a_table_without_rows_is_filled(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    tables.upsert(path, [{"Model": "a", "Acc": 1.0}], KEY)
    assert path.read_text() == "Model,Acc\na,1\n"


@pytest.mark.parametrize(
    "content, part",
    [
        (b"Model,Acc\na,1\nb\n", "unequal length"),
        (b"Model,Acc\na,1,2\n", "unequal length"),
        (b'Model,Acc\na,"1\n', "damaged or not a table"),
        (b"Model,Acc\n\xff\xfe,1\n", "damaged or not a table"),
        (b"Name,Acc\na,1\n", "columns Model"),
        (b"Model,Acc,Acc\na,1,2\n", "each once"),
        (b"my shopping list\n", "columns Model"),
    ],
)
def test_a_damaged_or_foreign_table_is_refused_and_left_alone(
    path: Path, content: bytes, part: str
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UsageError, match="move it away") as raised:
        tables.upsert(path, [{"Model": "a", "Acc": 1.0}], KEY)
    text = str(raised.value)
    assert str(path) in text and part in text and text.splitlines() == [text]
    assert path.read_bytes() == content
    assert leftovers(path) == []


@pytest.mark.parametrize("where", ["write", "replace"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_a_crash_leaves_the_old_table(
    path: Path, monkeypatch: pytest.MonkeyPatch, where: str, stop: type[BaseException]
) -> None:
    tables.upsert(path, [{"Model": "a", "Acc": 1.0}], KEY)
    before = path.read_bytes()

    def crash(*arguments: Any) -> None:
        raise stop

    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(csv.DictWriter, "writerows", crash)
        else:
            patch.setattr(os, "replace", crash)
        with pytest.raises(stop):
            tables.upsert(path, [{"Model": "b", "Acc": 1.0}], KEY)
    assert path.read_bytes() == before
    assert leftovers(path) == []
    tables.upsert(path, [{"Model": "b", "Acc": 1.0}], KEY)  # the lock was released too
    assert len(tables.read(path)) == 2


def upsert_many(path: Path, writer: int, start: Barrier) -> None:
    """One process's part of the next test: rows of its own, and one that all fight for."""
    start.wait(60)
    for row in range(12):
        own = {"Model": f"{writer}-{row}", "Acc": writer + row / 100}
        tables.upsert(path, [own, {"Model": "shared", "Acc": float(writer)}], KEY)


@pytest.mark.slow
def test_four_processes_at_once_lose_no_row(path: Path) -> None:
    tables.upsert(path, [{"Model": "before", "Acc": 1.0}], KEY)
    # A server imports the package once, then forks: four imports would take longer than the test.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([tables.__name__])
    start = context.Barrier(4)
    workers = [
        context.Process(target=upsert_many, args=(path, writer, start)) for writer in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    table = {row["Model"]: row["Acc"] for row in tables.read(path)}
    rows = {f"{w}-{r}": tables.cell(w + r / 100) for w in range(4) for r in range(12)}
    assert table.pop("shared") in "0123"
    assert table == {"before": "1", **rows}
    assert len(path.read_text().splitlines()) == 1 + 1 + 1 + 48


def test_text_for_people() -> None:
    rows: list[dict[str, object]] = [
        {"Name": "plain", "Acc": 98.765, "SSIM": 0.85449, "Epsilon": math.inf},
        {"Name": "both", "Acc": 9.5, "SSIM": None},
    ]
    columns = {"Name": "defence", "Acc": "acc %", "SSIM": "SSIM", "Epsilon": "eps"}
    assert tables.as_text(rows, columns).splitlines() == [
        "defence  acc %    SSIM  eps",
        "-------  -----  ------  ---",
        "plain     98.8  0.8545  inf",
        "both       9.5       -    -",
    ]


# ---------------------------------------------------------------- numbers


def written(path: Path, text: str) -> list[tables.ReadRow]:
    path.parent.mkdir()
    path.write_text(text)
    return tables.read(path, KEY)


@pytest.mark.parametrize(
    "text, value",
    [("", None), ("98.5", 98.5), ("-1e-9", -1e-9), ("inf", math.inf), ("0", 0.0)],
)
def test_a_number_is_read_as_written(path: Path, text: str, value: float | None) -> None:
    (row,) = written(path, f"Model,Acc\na,{text}\n")
    assert tables.number(row, "Acc") == value
    assert tables.number(row, "Other") is None and tables.number(None, "Acc") is None


@pytest.mark.parametrize("text", ["nan", "98,5", "9x", "1_000", "True", "٣x", "²"])
def test_what_is_no_number_is_named_with_its_file_row_and_column(path: Path, text: str) -> None:
    rows = written(path, f'Model,Acc\na,1\nb,"{text}"\n')
    with pytest.raises(UsageError) as raised:
        [tables.number(row, "Acc") for row in rows]
    line = f"{path}, row 2, column Acc has {text!r}, no number; delete that row and evaluate again"
    assert str(raised.value) == line


def test_a_number_that_must_be_there(path: Path) -> None:
    (row,) = written(path, "Model,Acc,Empty\na,1,\n")
    assert tables.numeric(row, "Acc") == 1
    with pytest.raises(UsageError, match="row 1, column Empty has '', no number"):
        tables.numeric(row, "Empty")
    with pytest.raises(UsageError, match="row 1, has no column TestAcc"):
        tables.numeric(row, "TestAcc")


def test_a_column_that_is_not_there_is_named(path: Path) -> None:
    (row,) = written(path, "Model,Acc\na,1\n")
    with pytest.raises(UsageError) as raised:
        row["Dataset"]
    assert str(raised.value).startswith(f"{path}, row 1, has no column Dataset")


@pytest.mark.parametrize(
    "content",
    [
        b"Model,Acc\na\0b,1\n",
        b"Mod\0el,Acc\na,1\n",
        b"Model,Acc\n" + b"a" * 200_000 + b",1\n",
        b'Model,Acc\na,"1\r\n',
        b"\xef\xbb\xbfModel,Acc\na,1\n",
    ],
)
def test_every_kind_of_damage_is_one_line(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UsageError, match="move it away to start a new") as raised:
        tables.read(path, KEY)
    text = str(raised.value)
    assert str(path) in text and text.splitlines() == [text]


def test_a_table_is_not_read_beyond_what_tables_are(path: Path) -> None:
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(2**36)  # holds nothing, hence takes no place
    with pytest.raises(UsageError, match="more than 67108864 bytes"):
        tables.read(path, KEY)

"""The choice among attackers: against a slow loop, and against the flattery that it avoids."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from dpsnn.evaluation import tables, victims
from dpsnn.evaluation.strongest import strongest, write_strongest


def test_the_better_attacker_is_chosen_and_scored_on_all_victims() -> None:
    draws = torch.Generator().manual_seed(0)
    errors = torch.rand(200, generator=draws)
    found = strongest({"weak": errors + 1, "strong": errors})
    assert found.names == ("strong", "strong") and found.tried == 2
    assert found.value == pytest.approx(errors.double().mean().item())
    assert found.low < found.value < found.high
    # The interval of a mean, as no sample chooses the weak one.
    half = 1.96 * errors.double().std().item() / np.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.error == pytest.approx(half / 1.96, rel=0.1)


def test_where_higher_leaks_the_signs_turn() -> None:
    errors = torch.rand(100, generator=torch.Generator().manual_seed(1))
    low, high = strongest({"a": errors, "b": errors / 2}), strongest(
        {"a": -errors, "b": -errors / 2}, lower_leaks=False
    )
    assert high.names == low.names
    assert (high.value, high.oracle) == (-low.value, -low.oracle)
    assert (high.low, high.high) == (-low.high, -low.low)


def test_many_equal_attackers_do_not_flatter_one_another() -> None:
    """The best of fifty that only differ by noise is no better than one of them; the best per victim looks so."""
    draws = torch.Generator().manual_seed(2)
    values, bests = [], []
    for repetition in range(20):
        errors = {str(a): torch.rand(60, generator=draws) for a in range(50)}
        values.append(strongest(errors, seed=repetition).value)
        bests.append(min(e.mean().item() for e in errors.values()))
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
    assert np.mean(bests) < 0.44


def test_the_best_of_each_victim_is_kept_apart() -> None:
    first = torch.tensor([0.0, 1.0] * 10)
    found = strongest({"odd": first, "even": 1 - first})
    assert found.oracle == 0 and found.value > 0.3


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = torch.Generator().manual_seed(3)
    held = 0
    for repetition in range(100):
        errors = {
            name: torch.rand(80, generator=draws) + more
            for name, more in (("a", 0.0), ("b", 0.3), ("c", 0.5))
        }
        found = strongest(errors, seed=repetition)
        held += found.low <= 0.5 <= found.high
    assert 88 <= held <= 100


@pytest.mark.parametrize("count", [2, 5, 29])
def test_of_a_few_victims_the_interval_is_students(count: int) -> None:
    """Resamples of halves are too narrow: of four victims they hold the truth two times of three."""
    draws, held = np.random.default_rng(count), 0
    for _ in range(300):
        values = draws.normal(0.4, 0.1, count)
        found = strongest({"a": torch.from_numpy(values), "b": torch.from_numpy(values + 1)})
        held += found.low <= 0.4 <= found.high
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.error == pytest.approx(stats.sem(values)) and held > 0.95 * 300 - 12
    turned = strongest({"a": torch.from_numpy(-values)}, lower_leaks=False)
    assert (turned.low, turned.high) == pytest.approx((-high, -low))


def test_equals_are_chosen_alike_in_any_order() -> None:
    """Shares of right answers have ties, above all in samples of few victims."""
    draws = torch.Generator().manual_seed(5)
    right = {name: 100.0 * (torch.rand(60, generator=draws) < 0.7) for name in "abc"}
    turned = {name: right[name] for name in "cab"}
    assert strongest(right, lower_leaks=False) == strongest(turned, lower_leaks=False)


@pytest.mark.parametrize(
    "scores, said",
    [
        ({}, "no attacker"),
        ({"a": torch.ones(1)}, "1 victims"),
        ({"a": torch.tensor([1.0, torch.nan])}, "not finite"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(scores: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        strongest(scores)


# ---------------------------------------------------------------- the table


def _row(attacker: str, **more: object) -> dict[str, object]:
    usual: dict[str, object] = {"Model": "m", "Attacker": attacker, "Dataset": "digits"}
    usual |= {"Attack": attacker, "Queries": 1, "Images": 100, "NoiseScale": 0, "Digest": attacker}
    return usual | {"MSEFloor": 0.07} | more


def test_the_table_has_a_line_for_each_target(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(4)
    rows = [_row("weak"), _row("strong"), _row("weak", Queries=4, Digest="w4", Attacker="weak4")]
    for row, more in zip(rows, (1.0, 0.0, 2.0)):
        errors = torch.rand(100, generator=draws) + more
        scores = {"mse": errors, "ssim": 1 - errors, "recognised": (errors < 0.5).float() * 100}
        victims.save(tmp_path, str(row["Attacker"]), victims.mark(row), scores)
        row["MSE"] = errors.mean().item()
    tables.upsert(tables.attackers_table(tmp_path), rows, tables.ATTACKER_KEY)
    path = write_strongest(tmp_path)
    assert path is not None
    once, often = tables.read(path)
    assert (once["MSEBy"], once["Tried"], once["SSIMBy"]) == ("strong", "2", "strong")
    assert float(once["MSE"]) == pytest.approx(float(str(rows[1]["MSE"])), rel=1e-4)
    assert float(once["MSELow"]) < float(once["MSE"]) < float(once["MSEHigh"])
    assert float(once["MSEBestOfEach"]) <= float(once["MSE"])
    assert float(once["SSIMBestOfEach"]) >= float(once["SSIM"])
    assert (once["Dataset"], once["MSEFloor"], once["Queries"]) == ("digits", "0.07", "1")
    assert "Attack" not in once or not once["Attack"]
    assert (often["MSEBy"], often["Tried"], often["Queries"]) == ("weak4", "1", "4")


def test_scores_of_another_attacker_are_not_taken(tmp_path: Path) -> None:
    row = _row("a")
    victims.save(tmp_path, "a", victims.mark(row), {"mse": torch.rand(100)})
    tables.upsert(tables.attackers_table(tmp_path), [row | {"Digest": "b"}], tables.ATTACKER_KEY)
    assert write_strongest(tmp_path) is None
    (tmp_path / "victims" / "a.npz").write_bytes(b"damaged")
    tables.upsert(tables.attackers_table(tmp_path), [row], tables.ATTACKER_KEY)
    assert write_strongest(tmp_path) is None


def test_a_line_stays_while_scores_lie_elsewhere_and_its_attackers_are_the_same(
    tmp_path: Path,
) -> None:
    """Results are committed without the scores of each victim: another study must not lose what others found."""
    rows = [_row("weak"), _row("strong"), _row("other", Model="n")]
    table, target = tables.attackers_table(tmp_path), tables.ATTACKER_KEY
    for row, error in zip(rows, (2.0, 1.0, 3.0)):
        errors = torch.rand(100) + error
        victims.save(tmp_path, str(row["Attacker"]), victims.mark(row), {"mse": errors})
    tables.upsert(table, rows, target)
    path = write_strongest(tmp_path)
    assert path is not None
    whole = path.read_text()
    for name in ("weak", "strong"):
        (tmp_path / "victims" / f"{name}.npz").unlink()
    assert write_strongest(tmp_path) == path and path.read_text() == whole
    # One attacker more, or one that was scored again: what the line says is of others.
    tables.upsert(table, [_row("third")], target)
    assert [row["Model"] for row in tables.read(write_strongest(tmp_path) or path)] == ["n"]
    path.write_text(whole)
    tables.write(table, [*rows[:1], _row("strong", Digest="anew"), rows[2]])
    victims.save(tmp_path, "strong", "of another", {"mse": torch.rand(100)})
    assert [row["Model"] for row in tables.read(write_strongest(tmp_path) or path)] == ["n"]


@pytest.mark.parametrize("told", [{"Digest": "anew"}, {"TargetDigest": "another"}, {"MSE": 0.9}])
def test_a_line_goes_when_its_attackers_were_trained_anew_under_their_names(
    tmp_path: Path, told: dict[str, object]
) -> None:
    """Of a line of before, which does not say whose it is, only other numbers tell."""
    rows = [_row("a"), _row("b", Model="n")]
    for row in rows:
        errors = torch.rand(100)
        victims.save(tmp_path, str(row["Attacker"]), victims.mark(row), {"mse": errors})
        row["MSE"] = errors.double().mean().item()
    tables.upsert(tables.attackers_table(tmp_path), rows, tables.ATTACKER_KEY)
    path = write_strongest(tmp_path)
    assert path is not None
    (tmp_path / "victims" / "a.npz").unlink()
    if "MSE" in told:
        lines = [{**line, "ComparedDigest": ""} for line in tables.read(path)]
        tables.write(path, lines)
    assert write_strongest(tmp_path) == path and len(tables.read(path)) == 2
    tables.upsert(tables.attackers_table(tmp_path), [rows[0] | told], tables.ATTACKER_KEY)
    assert write_strongest(tmp_path) == path
    assert [row["Model"] for row in tables.read(path)] == ["n"]


def test_nobody_is_the_strongest_beside_a_better_one_whose_scores_lie_elsewhere(
    tmp_path: Path,
) -> None:
    rows = [_row("better", MSE=0.2), _row("weak", MSE=0.5)]
    victims.save(tmp_path, "weak", victims.mark(rows[1]), {"mse": torch.full((100,), 0.5)})
    table = tables.attackers_table(tmp_path)
    tables.upsert(table, rows, tables.ATTACKER_KEY)
    assert write_strongest(tmp_path) is None
    tables.upsert(table, [rows[0] | {"MSE": 0.6}], tables.ATTACKER_KEY)
    (line,) = tables.read(write_strongest(tmp_path) or tmp_path)
    assert (line["MSEBy"], line["Tried"]) == ("weak", "1")


def test_who_was_scored_on_fewer_is_compared_on_these_alone(tmp_path: Path) -> None:
    """With what nobody beats on just these beside it, where a row says it of them."""
    many, few = torch.linspace(0.01, 0.03, 100), torch.full((20,), 0.012)
    rows = [_row("many", MSEBound=0.002), _row("few", Images=20, MSEBound=0.001)]
    for row, errors in zip(rows, (many, few)):
        victims.save(tmp_path, str(row["Attacker"]), victims.mark(row), {"mse": errors})
    tables.upsert(tables.attackers_table(tmp_path), rows, tables.ATTACKER_KEY)
    path = write_strongest(tmp_path)
    assert path is not None
    all_of, first = tables.read(path)
    assert (all_of["Images"], all_of["Tried"], all_of["MSEBy"]) == ("100", "1", "many")
    assert (first["Images"], first["Tried"]) == ("20", "2")
    assert float(first["MSEBestOfEach"]) == pytest.approx(
        torch.minimum(many[:20], few).mean().item(), rel=1e-4
    )
    assert (all_of["MSEBound"], first["MSEBound"]) == ("0.002", "0.001")
    assert float(all_of["BoundShare"]) == pytest.approx(0.002 / many.mean().item(), rel=1e-4)


@pytest.mark.parametrize("told", [{"Surrogate": "emnist"}, {"DataPct": 50}])
def test_who_owns_other_images_is_no_rival(tmp_path: Path, told: dict[str, object]) -> None:
    rows = [_row("a", Surrogate="digits", DataPct=100)]
    rows.append(_row("b", Surrogate="digits", DataPct=100) | told)
    for row in rows:
        scores = {"mse": torch.rand(100)}
        victims.save(tmp_path, str(row["Attacker"]), victims.mark(row), scores)
    tables.upsert(tables.attackers_table(tmp_path), rows, tables.ATTACKER_KEY)
    path = write_strongest(tmp_path)
    assert path is not None and [row["Tried"] for row in tables.read(path)] == ["1", "1"]

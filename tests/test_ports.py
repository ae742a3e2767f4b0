"""Free ports: really free, in a row, and not among those that the kernel gives away."""

import socket
from pathlib import Path

import pytest

from dpsnn import ports


def test_all_of_them_can_be_listened_on_and_none_is_the_kernels_to_give() -> None:
    lowest = int(ports.EPHEMERAL.read_text().split()[0]) if ports.EPHEMERAL.exists() else 32_768
    first = ports.free(13)
    made = [socket.create_server((ports.HOST, port)) for port in range(first, first + 13)]
    for each in made:
        each.close()
    assert ports.LOWEST <= first and (first + 13 <= lowest or lowest < ports.LOWEST + 1000)


def test_a_row_with_a_taken_port_is_not_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    class Drawn:
        def randrange(self, low: int, high: int) -> int:
            asked.append((low, high))
            return first if len(asked) == 1 else first + 1

    first = ports.free(3)
    monkeypatch.setattr(ports.random, "SystemRandom", Drawn)
    with socket.create_server((ports.HOST, first)):
        assert ports.free(2) == first + 1
    # A kernel that gives all of them, or says nothing: there is room all the same.
    for text in ("1024\t60999\n", "?"):
        (tmp_path / "range").write_text(text)
        monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "range")
        ports.free(2)
    assert asked[-2:] == [(10_000, 10_998), (10_000, 32_766)]


def test_where_all_are_taken_the_systems_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(address: tuple[str, int]) -> socket.socket:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(ports.socket, "create_server", refused)
    with pytest.raises(OSError, match="in use"):
        ports.free()

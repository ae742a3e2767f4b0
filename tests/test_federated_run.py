"""`dpsnn federated` as a user runs it: a server, a message broker and clients in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install -e '.[federated]'")

from dpsnn import checkpoints  # noqa: E402
from dpsnn.checkpoints import CLASSIFIER  # noqa: E402
from dpsnn.cli import main  # noqa: E402
from dpsnn.evaluation import tables  # noqa: E402
from dpsnn.studies.federated.study import federated_table  # noqa: E402

SMALL = "--network lenet5 --batch_size 16 --clients 4 --rounds 3".split()
NAME = "digits_00noise_00nopeek_lenet5_constantrate_3epochs_16batch_federated4"


def left(marker: str) -> list[int]:
    """`children` that are still there after a moment, which a killed process may take to vanish."""
    end = time.monotonic() + 5
    while (found := children(marker)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def children(marker: str) -> list[int]:
    """Processes whose command line or environment names the folder `marker`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in text and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_secure_and_plain_side_by_side(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(["federated", *SMALL]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(federated_table("results"))
    rows = tables.read(federated_table("results"))
    assert [(r["Model"], r["Round"]) for r in rows] == [
        (name, str(i)) for name in (NAME, f"{NAME}plain") for i in (1, 2, 3)
    ]
    secure, plain = rows[:3], rows[3:]
    for row in secure:
        assert 0 < float(row["MaxDifference"]) <= float(row["QuantisationBound"]) < 1e-7
    for one, other in zip(secure, plain):
        assert one["Clients"] == other["Clients"] == "4"
        assert abs(float(one["ValAcc"]) - float(other["ValAcc"])) < 2
        # Masked values are no larger than weights, keys and shares are small.
        assert float(one["BytesFromClients"]) < 1.05 * float(other["BytesFromClients"])
    assert float(secure[-1]["TestAcc"]) > 30
    for name in (NAME, f"{NAME}plain"):
        path = checkpoints.find(Path("models/classifiers"), name, CLASSIFIER)
        assert path.name == f"{name}_epoch=02.ckpt"
        _, spec, stored = checkpoints.load_classifier(path)
        assert (spec.max_epochs, stored.arguments["federated_clients"]) == (3, 4)
    # Nothing is left but results: no process, no update of a client.
    assert sorted(path.name for path in place.iterdir()) == ["models", "results"]
    assert left(str(place / "dpsnn-federated-")) == []
    # Again: all of it is there.
    assert main(["federated", *SMALL]) == 0
    assert "exists, with its rows" in capsys.readouterr().err


@pytest.mark.slow
def test_a_client_killed_in_the_middle_is_survived_and_epsilon_is_reported(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*SMALL, "--secure", "--drop", "1", "--dp_noise_multiplier", "1.0"]
    assert main(["federated", *options]) == 0
    rows = tables.read(federated_table("results"))
    assert [row["Clients"] for row in rows] == ["4", "3", "3"]
    assert float(rows[0]["MaxEpsilon"]) < float(rows[2]["MaxEpsilon"])
    (path,) = Path("models/classifiers").glob("*.ckpt")
    assert path.name == (
        "digits_00noise_00nopeek_10dpsgd_lenet5_constantrate_3epochs_16batch_federated4_1dropped_epoch=02.ckpt"
    )
    record = checkpoints.read(path, CLASSIFIER).record
    epsilons = record["dp_epsilon_by_client"]
    assert epsilons["0"] < epsilons["1"] == record["dp_epsilon"]
    assert "client 1: epsilon" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_cannot_go_on_says_why_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*SMALL, "--secure", "--learning_rate", "1e30"]
    assert main(["federated", *options]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "gave no average" in last and "diverged" in last
    assert not list(Path("models/classifiers").glob("*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_process_outlives_the_command(place: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "dpsnn.cli", "federated", *SMALL, "--rounds", "500"]
    process = subprocess.Popen(
        command,
        cwd=place,
        env={**os.environ, "TMPDIR": str(place)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stderr
    for line in process.stderr:
        if "round 1/" in line:
            break
    # The client processes, the SuperLink, the SuperExec and its ServerApp.
    assert len(children(str(place / "dpsnn-federated-"))) >= 4 + 3
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert left(str(place / "dpsnn-federated-")) == []
    # Who is killed cannot tidy up.
    assert bool(list(place.glob("dpsnn-federated-*"))) == (number == signal.SIGKILL)

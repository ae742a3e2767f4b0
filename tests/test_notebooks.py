"""The notebooks run from end to end, on rows and checkpoints of the embedded digits."""

from collections.abc import Callable
from pathlib import Path

import pytest
from invented import write_inversions, write_tables

from dpsnn.runner.run import merge
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.studies.omniglot.study import omniglot_experiments
from dpsnn.studies.titcombe.groups import GROUPS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))

nbformat = pytest.importorskip("nbformat", reason="needs the extra [notebooks]")
nbclient = pytest.importorskip("nbclient", reason="needs the extra [notebooks]")
FileMaker = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, classifier_file: FileMaker, attacker_file: FileMaker) -> Path:
    """Invented tables, and untrained checkpoints of the plain classifier with the attackers that figures show."""
    write_tables(tmp_path, 0)
    write_tables(tmp_path, 0, group=omniglot_experiments)
    write_inversions(tmp_path, "digits")
    experiments = GROUPS["all"](ClassifierSpec(), AttackerSpec(surrogate="digits"))
    for experiment in merge(experiments):
        spec = experiment.classifier
        shown = (spec.noise_scale, spec.nopeek_weight) in ((0.0, 0.0), (1.0, 0.0))
        if not shown:
            continue
        target = classifier_file(tmp_path / "models", noise_scale=spec.noise_scale)
        for attacker in experiment.attackers:
            if (attacker.surrogate, attacker.attack) == ("digits", "decoder"):
                values = {
                    name: getattr(attacker, name)
                    for name in ("naive", "data_pct", "queries", "model_noise", "doublings")
                }
                attacker_file(tmp_path / "models", target, **values)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_digits(path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSNN_HOME", str(home))
    monkeypatch.setenv("DPSNN_DATASET", "digits")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if "encrypted" in path.stem:
        pytest.importorskip("spu", reason="needs the extra [secure]")
        monkeypatch.setenv("DPSNN_PORT", "4300")
    # A picture that cannot be drawn without its checkpoints is taken from the file.
    pictures = home / "results" / "figures"
    pictures.mkdir(parents=True)
    drawn = [f"reconstructions_by_{name}" for name in ("defence", "epsilon", "suppression")]
    for name in (*drawn, "people_by_epsilon"):
        picture = pictures / f"{name}_digits.png"
        picture.write_bytes((ROOT / "results" / "figures" / "headline_mnist.png").read_bytes())
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [
        output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    drawn = ("show(", "Image(")
    assert len(shown) == sum(cell.source.startswith(drawn) for cell in cells) > 0
    assert all("digits" not in cell.source for cell in cells), "data sets come from the environment"


def test_there_is_a_notebook_for_each_question() -> None:
    assert [str(path.relative_to(ROOT / "notebooks")) for path in NOTEBOOKS] == [
        "1_MNIST_non_dp_mitigations/1_data_volume.ipynb",
        "1_MNIST_non_dp_mitigations/2_nopeek.ipynb",
        "2_MNIST_dp_mitigations/1_laplacian_noise.ipynb",
        "2_MNIST_dp_mitigations/2_post_training_noise.ipynb",
        "2_MNIST_dp_mitigations/3_noise_and_nopeek.ipynb",
        "3_omniglot_dp_sgd/1_dp_sgd.ipynb",
        "4_suppress_privacy/1_suppress_privacy.ipynb",
        "5_faces_mi_face/1_mi_face.ipynb",
        "6_encrypted_inference/1_encrypted_inference.ipynb",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_printed_names_no_place_of_who_ran_it(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    printed = [o.text for c in cells for o in c.get("outputs", []) if o.output_type == "stream"]
    assert not any("read from the mirror" in text for text in printed)

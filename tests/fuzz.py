"""Damage files at random and see what their loaders make of them: `python tests/fuzz.py LOADER FOLDER`.

A loader may give what the file says, or raise a UsageError of one line that names the file. Where the file is sealed,
or the set is known to the last pixel, what it gives must be what was written.
"""

import json
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

SECONDS = 10
"""A loader that takes so much longer than over sound files hangs."""

EXTREMES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]
"""Where a field of a header holds such a number, what is counted by it breaks."""


class Loader(NamedTuple):
    """One door by which files of others come in."""

    make: Callable[[Path], list[Path]]
    """Write sound files into a folder; those to be damaged, one at a time."""
    load: Callable[[Path], object]
    """Read them from there, by the door that the command line uses; what is in them, to compare."""
    count: int
    """How many times."""
    exact: bool = False
    """Whether damage cannot go unnoticed."""


class Hang(BaseException):
    """Time is up; nobody who takes every Exception may take this one."""


# ---------------------------------------------------------------- damage


def damaged(whole: bytes, draw: Random, others: list[bytes]) -> bytes:
    """A file with one kind of damage, somewhere; near its ends as often as anywhere else."""
    if not whole:
        return draw.randbytes(8)
    length = len(whole)
    place = draw.choice(
        [
            draw.randrange(length),
            draw.randrange(min(128, length)),
            length - 1 - draw.randrange(min(128, length)),
        ]
    )
    run = min(draw.choice([1, 2, 4, 16, 64, 512]), length - place)
    other = draw.randrange(length)
    block = whole[other : other + run]
    number = draw.choice(EXTREMES)
    field = number.to_bytes(8, draw.choice(["little", "big"]))[:: draw.choice([1, -1])]
    field = field[-draw.choice([1, 2, 4, 8]) :]
    kinds: list[Callable[[], bytes]] = [
        lambda: whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :],
        lambda: whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :],
        lambda: whole[:place] + draw.randbytes(run) + whole[place + run :],
        lambda: whole[:place] + bytes(run) + whole[place + run :],
        lambda: whole[:place],
        lambda: whole[:place] + whole[place + run :],
        lambda: whole[:place] + draw.randbytes(run) + whole[place:],
        lambda: whole[:place] + block * draw.choice([1, 2, 50]) + whole[place:],
        lambda: whole[:place] + block + whole[place + len(block) :],
        lambda: whole[:place] + field + whole[place + len(field) :],
        lambda: whole[:place] + field + whole[place + len(field) :],
        lambda: whole + whole,
        lambda: draw.choice(others),
        lambda: b"",
    ]  # fmt: skip
    return draw.choice(kinds)()


# ---------------------------------------------------------------- the doors


def _idx(folder: Path) -> list[Path]:
    import gzip
    import struct

    content = struct.pack(">IIII", 0x803, 20, 28, 28) + Random(1).randbytes(20 * 784)
    path = folder / "images-idx3-ubyte"
    path.write_bytes(content)
    path.with_suffix(".gz").write_bytes(gzip.compress(content, mtime=0))
    return [path, path.with_suffix(".gz")]


def _read_idx(folder: Path) -> object:
    from dpsnn.data.files import read_idx

    return [read_idx(path) for path in sorted(folder.iterdir())]


def _from_mirror(folder: Path, *names: str, of: str = "", unpack: bool = False) -> list[Path]:
    """Files of a real set; those whose names hold `of` are damaged, the others only linked."""
    import gzip
    import os

    mirror, made = Path(os.environ["DPSNN_DATA_MIRROR"]), []
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if of not in name:
            target.symlink_to(mirror / name)
            continue
        content = (mirror / name).read_bytes()
        if unpack:
            target, content = target.with_suffix(""), gzip.decompress(content)
        target.write_bytes(content)
        made.append(target)
    return made


def _set(folder: Path, name: str) -> object:
    from dpsnn.data import DATASETS

    pool = DATASETS[name](str(folder)).pool
    return pool.pixels, pool.labels


MNIST = [
    f"MNIST/raw/{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]
OMNIGLOT = [
    f"omniglot-py/images_{part}.zip"
    for part in ("background_small1", "background_small2", "evaluation")
]


def _people(folder: Path) -> list[Path]:
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    made = []
    for person in ("ada", "bo"):
        (folder / person).mkdir(parents=True)
        for number, suffix in enumerate((".pgm", ".png", ".jpg", ".bmp", ".tif")):
            path = folder / person / f"{number}{suffix}"
            Image.fromarray(generator.integers(0, 256, (24, 20), dtype=np.uint8)).save(path)
            made.append(path)
    return made


def _read_people(folder: Path) -> object:
    from dpsnn.data.faces import own_faces

    return own_faces(folder)(str(folder)).pool.pixels


def _models(folder: Path, kind: str) -> list[Path]:
    """A small classifier, an attacker of it, and its client half."""
    import torch

    from dpsnn import building, checkpoints
    from dpsnn.secure.device import export
    from dpsnn.specs import AttackerSpec, ClassifierSpec, plain
    from dpsnn.target import Target

    spec = ClassifierSpec(network="lenet5", noise_scale=0.5)
    model = building.build_classifier(spec)
    name = f"{checkpoints.classifier_name(spec)}_epoch=03"
    classifier = checkpoints.classifiers_dir(folder) / f"{name}.ckpt"
    record: dict[str, Any] = {"epoch": 3, "precision": "32-true", "best": 0.5}
    checkpoints.save(classifier, "classifier", plain(spec), record, model.state_dict())
    if kind == "classifier":
        return [classifier]
    if kind == "device":
        return [export(classifier, folder)[0]]
    attack = AttackerSpec(surrogate="digits", model=name, attack="sign", steps=2)
    shape = model.network.image_shape
    record |= {"mean_image": torch.full(shape, 0.5), "surrogate_source": "x", "surrogate_images": 2}
    attacker = checkpoints.attackers_dir(folder) / f"{checkpoints.attacker_name(attack)}.ckpt"
    inversion = building.build_attack(attack, Target.of(model))
    arguments = checkpoints.attacker_arguments(attack, checkpoints.read(classifier, "classifier"))
    checkpoints.save(attacker, "attacker", arguments, record, inversion.state_dict())
    return [attacker]


def _read_model(folder: Path, kind: str) -> object:
    from dpsnn import checkpoints
    from dpsnn.secure.device import Device
    from dpsnn.target import Target

    if kind == "device":
        (path,) = checkpoints.devices_dir(folder).iterdir()
        Device(path)
        return checkpoints.read(path, kind)[1:]
    (classifier,) = checkpoints.classifiers_dir(folder).iterdir()
    target, _, stored = checkpoints.load_classifier(classifier)
    if kind == "attacker":
        (path,) = checkpoints.attackers_dir(folder).iterdir()
        stored = checkpoints.load_attacker(path, Target.of(target))[2]
    return stored[1:]


def _progress(folder: Path) -> list[Path]:
    import torch

    from dpsnn import sealed

    layer = torch.nn.Linear(20, 30)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 20)).sum().backward()
    optimizer.step()
    state = {
        "state_dict": layer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "epoch": 3,
    }
    sealed.write(folder / "a.ckpt", state, 0o600)
    return [folder / "a.ckpt"]


def _read_progress(folder: Path) -> object:
    from dpsnn import progress_file

    return progress_file.read(folder / "a.ckpt")


RESULTS = Path(__file__).parents[1] / "results"
PUBLISHED = Path("published") / "quantitative_measures" / "published.csv"


def _tables(folder: Path) -> list[Path]:
    """Every seventh row of the tables that the summaries, the figures and the ledger read."""
    names = ("model_performances", "attack_performances", "suppress", "mi_face")
    parts = [PUBLISHED, *(Path("quantitative_measures") / f"{name}.csv" for name in names)]
    for part in parts:
        lines = (RESULTS / part).read_bytes().splitlines(keepends=True)
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes(b"".join(lines[:1] + lines[1::7]))
    return [folder / part for part in parts]


def _read_tables(folder: Path) -> object:
    from dpsnn.evaluation.results import Results
    from dpsnn.evaluation.summary import write_summaries
    from dpsnn.folders import Folders
    from dpsnn.runner.ledger import write_ledger

    write_summaries(folder)
    Results(Folders(results_dir=str(folder)), "mnist")
    return write_ledger("mnist", folder, folder / "ledger.md").read_bytes()


def _cluster(folder: Path) -> list[Path]:
    from dpsnn.secure import config

    path = folder / "cluster.toml"
    path.write_text(config.to_toml(config.local_cluster(timeout=30.0)))
    return [path]


def _read_cluster(folder: Path) -> object:
    from dpsnn.secure import config

    return config.read(folder / "cluster.toml")


def _keys(folder: Path) -> list[Path]:
    from dpsnn.secure import keys

    keys.make(_a_cluster(folder), "client")
    return sorted(
        path
        for path in (folder / "keys" / "authority").iterdir()
        if path.suffix in (".pem", ".key")
    )


def _a_cluster(folder: Path) -> Any:
    from dataclasses import replace

    from dpsnn.secure import config

    return replace(config.local_cluster(), keys=folder / "keys")


def _read_keys(folder: Path) -> object:
    from dpsnn.secure import keys

    keys.make(_a_cluster(folder), "another")
    return None


def _queries(folder: Path) -> list[Path]:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    pictures = [folder / f"image{kind}" for kind in (".png", ".jpg", ".pgm")]
    for path in pictures:
        Image.fromarray(pixels[0, 0]).save(path)
    return [folder / "images.npy", folder / "images.npy", *pictures]


def _read_queries(folder: Path) -> object:
    from dpsnn.secure.commands import images_from

    paths = sorted(folder.iterdir())
    return [images_from(str(path), folder, (1, 28, 28), 3)[0] for path in paths]


LOADERS = {
    "idx": Loader(_idx, _read_idx, 500),
    "mnist": Loader(partial(_from_mirror, *[], of="t10k-labels"), partial(_set, name="mnist"), 12, True),
    "omniglot": Loader(partial(_from_mirror, of="small1"), partial(_set, name="omniglot"), 5, True),
    "faces.tar": Loader(partial(_from_mirror, unpack=True), partial(_set, name="faces"), 80, True),
    "faces.tar.gz": Loader(_from_mirror, partial(_set, name="faces"), 80, True),
    "people": Loader(_people, _read_people, 500),
    "classifier": Loader(partial(_models, kind="classifier"), partial(_read_model, kind="classifier"), 250, True),
    "attacker": Loader(partial(_models, kind="attacker"), partial(_read_model, kind="attacker"), 200, True),
    "device": Loader(partial(_models, kind="device"), partial(_read_model, kind="device"), 200, True),
    "progress": Loader(_progress, _read_progress, 400, True),
    "tables": Loader(_tables, _read_tables, 300),
    "cluster.toml": Loader(_cluster, _read_cluster, 400),
    "keys": Loader(_keys, _read_keys, 200),
    "queries": Loader(_queries, _read_queries, 700),
}  # fmt: skip
REAL = {
    "mnist": MNIST,
    "omniglot": OMNIGLOT,
    "faces.tar": ["att_faces.tar.gz"],
    "faces.tar.gz": ["att_faces.tar.gz"],
}
"""Files of the mirror that a loader takes."""


# ---------------------------------------------------------------- a run


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, tensors too."""
    import torch

    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def faults(name: str, folder: Path) -> Iterator[str]:
    """Every time that a loader does what it may not, in words."""
    from dpsnn.errors import UsageError

    def ring(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    loader, draw = LOADERS[name], Random(f"{name} 0")
    sound, others_at = folder / "sound", folder / "others"
    sound.mkdir()
    paths = loader.make(sound, *REAL.get(name, []))
    wholes = {path: path.read_bytes() for path in paths}
    others_at.mkdir()
    others = [path.read_bytes() for path in (*_queries(others_at), *_cluster(others_at))]
    others += [*wholes.values(), b"\x1f\x8b", b"PK\x05\x06" + bytes(18), b"\x80\x02."]
    start = time.monotonic()
    wanted = loader.load(sound)
    # Some sets take a while even if nothing is wrong with them.
    limit = SECONDS + round(2 * (time.monotonic() - start))
    for number in range(loader.count):
        path = draw.choice(paths)
        path.write_bytes(damaged(wholes[path], draw, others))
        signal.alarm(limit)
        try:
            given = loader.load(sound)
            if loader.exact and not same(given, wanted):
                yield f"{number}: {path.name} was read as something else"
        except UsageError as error:
            line = str(error)
            if line.splitlines() != [line] or not line.isprintable():
                yield f"{number}: not one line: {line!r}"
            elif path.name not in line:
                yield f"{number}: {path.name} is not named: {line}"
        except Hang:
            yield f"{number}: {path.name} took longer than {limit} s"
        except BaseException as error:
            yield f"{number}: {path.name}: {type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        path.write_bytes(wholes[path])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    from dpsnn.memory import peak_bytes

    name, folder = sys.argv[1:]
    found = list(faults(name, Path(folder)))
    told = {"mutations": LOADERS[name].count, "faults": found, "GiB": peak_bytes() / 2**30}
    print(json.dumps(told))

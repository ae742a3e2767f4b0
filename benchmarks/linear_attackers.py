"""The linear attacker in closed form against the published linear decoder, which is trained in epochs.

    python benchmarks/linear_attackers.py [--model CLASSIFIER.ckpt] [--epochs 20]

Both get the same own images and are scored on the same victims; without --model the target is the published network as
it is initialised, which takes no training. Seconds are of the processor; prints the ratio and both errors from one run.
"""

import argparse
import logging
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor

from dpsnn.batches import to_unit
from dpsnn.bench.records import begin
from dpsnn.building import build_attack, build_classifier
from dpsnn.checkpoints import load_classifier
from dpsnn.data import DATASETS
from dpsnn.specs import AttackerSpec, ClassifierSpec
from dpsnn.target import Target
from dpsnn.training import Fitted, fit, seeded


def learn(module: object, **options: object) -> Fitted:
    title = options.pop("trial", "")
    return fit(module, seed=0, title=title, **options)  # type: ignore[arg-type]


def attacked(
    spec: AttackerSpec, target: Target, own: Tensor, victims: Tensor
) -> tuple[float, float]:
    """Seconds of its preparation, and its squared error per pixel."""
    attack = build_attack(spec, target, own)
    start = time.process_time()
    with seeded(spec.seed, 13):
        attack.prepare(learn)
    seconds = time.process_time() - start
    with seeded(spec.seed, 12):
        heard = target.transmit(target.encode(victims))
        found = torch.cat([attack.infer(block) for block in heard.split(100, 1)])
    return seconds, float((found.cpu() - victims).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a classifier's checkpoint")
    parser.add_argument("--dataset", default="mnist", help="without --model [%(default)s]")
    parser.add_argument("--data_dir", default="data", type=Path)
    parser.add_argument("--epochs", default=20, type=int)
    options, results = begin(parser, quick={"dataset": "digits", "epochs": 1})
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if options.model:
        classifier, spec, _ = load_classifier(options.model)
    else:
        spec = ClassifierSpec(dataset=options.dataset)
        classifier = build_classifier(spec)
    target = Target.of(classifier)
    data = DATASETS[spec.dataset](options.data_dir)
    own, victims = data.tensors("surrogate")[0], to_unit(data.tensors("scoring")[0])
    published = AttackerSpec(decoder="linear", max_epochs=options.epochs)
    rows = [
        attacked(each, target, own, victims) for each in (AttackerSpec(attack="ridge"), published)
    ]
    for name, (seconds, error) in zip(("ridge", "linear decoder"), rows):
        print(f"{name:15} {seconds:8.1f} s  MSE {error:.5f}")
    print(
        f"ratio of seconds: {rows[1][0] / rows[0][0]:.0f}; of errors: {rows[1][1] / rows[0][1]:.2f}"
    )
    told, slow = "linear attacker in closed form", f"linear decoder, {options.epochs} epochs"
    results.add(f"{told}, of the processor", rows[0][0], "s", slow, rows[1][0] / rows[0][0])
    results.add(f"{told}: MSE", rows[0][1], "", slow, rows[0][1] / rows[1][1])
    results.write()


if __name__ == "__main__":
    main()

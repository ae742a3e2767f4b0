"""setup.cfg, environment.yml, its lock and the running environment must tell one story."""

import configparser
import importlib.metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def read_setup() -> dict[str, list[Requirement]]:
    """Requirements of setup.cfg by list: `run` and every extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = {"run": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        name: [Requirement(line) for line in text.splitlines() if line]
        for name, text in lists.items()
    }


def read_conda(filename: str) -> tuple[list[str], list[Requirement]]:
    """The conda part and the pip part of an environment file."""
    dependencies = yaml.safe_load((ROOT / filename).read_text())["dependencies"]
    conda = [entry for entry in dependencies if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return conda, [Requirement(line) for line in pip]


def names(requirements: list[Requirement]) -> list[str]:
    return [canonicalize_name(requirement.name) for requirement in requirements]


SETUP = read_setup()
APART = ("federated", "secure")
"""Extras that cannot live with the locked versions: `./main.sh` makes an environment for each."""
BESIDE = ("ray", "slurm")
"""Extras that live with the locked versions and are not among them: large, or of use to few."""
EVERY_REQUIREMENT = [
    requirement
    for name, group in SETUP.items()
    if name not in (*APART, *BESIDE)
    for requirement in group
]
NEWEST_CONDA, NEWEST = read_conda("environment.yml")
LOCKED_CONDA, LOCKED = read_conda("environment-lock.yml")


def locked_version(name: str) -> str:
    """The version the lock pins `name` to; fails where it is not pinned exactly once."""
    (pin,) = [pin for pin in LOCKED if canonicalize_name(pin.name) == canonicalize_name(name)]
    (specifier,) = pin.specifier
    return specifier.version


def test_setup_has_the_lists_this_file_knows() -> None:
    assert set(SETUP) == {"run", "test", "notebooks", "docs", "dev", *APART, *BESIDE}
    assert all(SETUP.values())


@pytest.mark.parametrize("requirement", EVERY_REQUIREMENT, ids=str)
def test_environment_yml_names_every_requirement_of_setup_cfg(requirement: Requirement) -> None:
    assert canonicalize_name(requirement.name) in names(NEWEST)


def test_environment_yml_names_nothing_that_setup_cfg_does_not() -> None:
    # setuptools builds dpsnn itself, so pyproject.toml asks for it.
    assert set(names(NEWEST)) - set(names(EVERY_REQUIREMENT)) == {"setuptools"}


def test_environment_yml_takes_the_newest_versions() -> None:
    assert [str(requirement) for requirement in NEWEST if requirement.specifier] == []


@pytest.mark.parametrize("name", names(NEWEST))
def test_lock_pins_everything_in_environment_yml(name: str) -> None:
    assert locked_version(name)


@pytest.mark.parametrize("requirement", EVERY_REQUIREMENT, ids=str)
def test_locked_version_satisfies_setup_cfg(requirement: Requirement) -> None:
    assert requirement.specifier.contains(locked_version(requirement.name), prereleases=True)


@pytest.mark.parametrize("pin", LOCKED, ids=str)
def test_lock_holds_exact_pins_only(pin: Requirement) -> None:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert "*" not in specifier.version
    assert pin.url is None


def test_lock_names_nothing_twice_and_not_dpsnn_itself() -> None:
    assert len(set(names(LOCKED))) == len(LOCKED)
    assert "dpsnn" not in names(LOCKED)


def test_lock_pins_python_exactly_and_setup_cfg_allows_it() -> None:
    locked = dict(entry.split("=") for entry in LOCKED_CONDA)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert locked["python"].count(".") == 2
    assert SpecifierSet(config["options"]["python_requires"]).contains(locked["python"])
    assert [f"python={locked['python'].rpartition('.')[0]}", "pip"] == NEWEST_CONDA


@pytest.mark.parametrize("requirement", SETUP["run"] + SETUP["test"], ids=str)
def test_running_environment_satisfies_setup_cfg(requirement: Requirement) -> None:
    version = importlib.metadata.version(requirement.name)
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("extra", APART)
def test_an_extra_with_its_own_environment_is_in_no_other(extra: str) -> None:
    own = set(names(SETUP[extra]))
    assert own and not own & {*names(NEWEST), *names(LOCKED)}
    installed = (ROOT / "main.sh").read_text(encoding="utf-8")
    assert f"        {extra}) echo" in installed


@pytest.mark.parametrize("extra", BESIDE)
def test_an_extra_beside_the_lock_asks_for_nothing_that_the_lock_has_otherwise(extra: str) -> None:
    (own,) = SETUP[extra]
    assert own.name not in {*names(NEWEST), *names(LOCKED)}
    try:
        needed = importlib.metadata.requires(own.name) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs the extra {extra}: pip install -e '.[{extra}]'")
    locked = {canonicalize_name(pin.name) for pin in LOCKED}
    for requirement in map(Requirement, needed):
        # Without a marker, or with one that holds here and is of no extra of theirs.
        applies = not requirement.marker or requirement.marker.evaluate({"extra": ""})
        if applies and canonicalize_name(requirement.name) in locked:
            version = locked_version(requirement.name)
            assert requirement.specifier.contains(version, prereleases=True), requirement


def test_spu_is_pinned_exactly() -> None:
    (spu,) = (requirement for requirement in SETUP["secure"] if requirement.name == "spu")
    assert [specifier.operator for specifier in spu.specifier] == ["=="]

"""main.sh on a copy of itself, with stub interpreters that write down what they were asked."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
GROUPS = (
    "audit calibrate demo test plain noise nopeek combo post_noise volume shift queries headline published omniglot"
    " suppress faces federated secure report figures performance verify clean bench all docs install"
).split()

# Stands in for Python: notes its arguments in $CALLS, answers main.sh's questions by the names of
# files beside itself, makes a .venv with a copy of itself, and keeps what pip was told to install.
STUB = r"""#!/bin/bash
here=$(dirname "$0")
case "$*" in
    --version) echo "Python 3.11.7"; exit 0 ;;
    *ensurepip*) [[ ! -e $here/too_old ]]; exit ;;
    *find_spec*pytest*) [[ ! -e $here/no_pytest ]]; exit ;;
    *find_spec*sphinx*) [[ ! -e $here/no_sphinx ]]; exit ;;
    *find_spec*spu*) [[ -e $here/has_secure ]]; exit ;;
    *find_spec*submitit*) [[ -e $here/has_engines ]]; exit ;;
    *find_spec*) [[ -e $here/has_dpsnn ]]; exit ;;
    *"import pip") exit 0 ;;
esac
echo "$(basename "$(dirname "$here")")/$(basename "$0") $*" >>"$CALLS"
case "$*" in
    "-m venv"*) venv=${*: -1}; rm -rf "$venv"; mkdir -p "$venv/bin"; cp "$0" "$venv/bin/python" ;;
    *" -r "*)
        [[ ! -e $FAIL.slow ]] || sleep 30
        [[ ! -e $FAIL ]] || { echo "ERROR: no wheel"; exit 1; }
        sleep 0.3
        cp "${*: -1}" "$CALLS.requirements"
        [[ $here != *-engines/bin ]] || touch "$here/has_engines"
        ;;
    *SLEEP*) sleep 30 ;;
esac
exit 0
"""


class Front:
    """A folder with main.sh and the lock, and a PATH of basic tools and the stubs asked for."""

    def __init__(self, folder: Path) -> None:
        self.repo = folder / "a copy"
        self.bin = folder / "path" / "bin"
        self.calls_file = folder / "calls"
        self.fail_file = folder / "fail"
        self.repo.mkdir()
        self.bin.mkdir(parents=True)
        for name in ("main.sh", "environment-lock.yml", "setup.cfg"):
            shutil.copy2(ROOT / name, self.repo)
        for (
            tool
        ) in (
            "awk bash basename cat cmp cp dirname grep mkdir rm sed sleep tail touch tr wc".split()
        ):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    def stub(self, name: str, *answers: str) -> None:
        (self.bin / name).write_text(STUB)
        (self.bin / name).chmod(0o755)
        for answer in answers:
            (self.bin / answer).touch()

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.bin), "CALLS": str(self.calls_file), "FAIL": str(self.fail_file)}

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call main.sh from another folder and forget the calls of the last time."""
        self.calls_file.unlink(missing_ok=True)
        return subprocess.run(
            [self.repo / "main.sh", *arguments],
            cwd=self.repo.parent,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    @property
    def installs(self) -> list[str]:
        return [call for call in self.calls if " install " in call]


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return Front(tmp_path)


def listed(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize("arguments", [[], [""], ["nosie"], ["n.*"], ["--dataset", "digits"]])
def test_no_or_unknown_group_lists_them_all_and_installs_nothing(
    front: Front, arguments: list[str]
) -> None:
    front.stub("python3.11")
    done = front(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert listed(done.stderr) == GROUPS
    assert front.calls == []
    assert not (front.repo / ".venv").exists()


@pytest.mark.parametrize(
    "word, meant",
    [
        ("nosie", "noise"),
        ("nois", "noise"),
        ("Noise", "noise"),
        ("post-noise", "post_noise"),
        ("plian", "plain"),
        ("fed", "federated"),
        ("zzz", ""),
    ],
)
def test_unknown_group_is_named_and_the_one_that_was_meant(
    front: Front, word: str, meant: str
) -> None:
    first = front(word).stderr.splitlines()[0]
    assert first == f"main.sh: unknown group '{word}'" + f" (did you mean {meant}?)" * bool(meant)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_groups(front: Front, option: str) -> None:
    done = front(option)
    assert (done.returncode, done.stderr, front.calls) == (0, "", [])
    assert listed(done.stdout) == GROUPS


def test_active_environment_with_dpsnn_is_used_as_it_is(front: Front) -> None:
    front.stub("python", "has_dpsnn")
    done = front("noise", "--dataset", "digits", "--savepath", "a b")
    assert done.returncode == 0
    assert front.calls == ["path/python -m dpsnn.cli noise --dataset digits --savepath a b"]
    assert not (front.repo / ".venv").exists()


def test_bare_machine_installs_the_lock_then_runs_the_group(front: Front) -> None:
    front.stub("python3.11")
    done = front("demo", "--seed", "1")
    assert done.returncode == 0
    assert done.stdout == ""
    venv, packages, dpsnn, demo = front.calls
    assert venv == "path/python3.11 -m venv --clear .venv"
    assert packages.startswith(".venv/python -m pip ")
    assert packages.endswith("-r .venv/requirements.txt")
    assert dpsnn.endswith("--no-deps --no-build-isolation -e .")
    assert demo == ".venv/python -m dpsnn.cli demo --seed 1"


def test_packages_are_exactly_the_locked_ones(front: Front) -> None:
    front.stub("python3.11")
    front("demo")
    lock = yaml.safe_load((ROOT / "environment-lock.yml").read_text())
    installed = Path(f"{front.calls_file}.requirements").read_text().splitlines()
    assert installed == lock["dependencies"][-1]["pip"]
    assert len(installed) > 50


def test_each_step_is_one_line_on_stderr(front: Front) -> None:
    front.stub("python3.11")
    lines = front("demo").stderr.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("main.sh: ") for line in lines)


def test_second_call_starts_at_once(front: Front) -> None:
    front.stub("python3.11")
    front("demo")
    done = front("plain")
    assert front.calls == [".venv/python -m dpsnn.cli plain"]
    assert done.stderr == ""


def test_changed_lock_is_installed_again_into_the_same_venv(front: Front) -> None:
    front.stub("python3.11")
    front("demo")
    with (front.repo / "environment-lock.yml").open("a") as lock:
        lock.write("      - another==1.0\n")
    assert front("demo").returncode == 0
    assert len(front.installs) == 2
    assert not any("-m venv" in call for call in front.calls)
    assert Path(f"{front.calls_file}.requirements").read_text().endswith("\nanother==1.0\n")


def test_failed_installation_says_so_in_one_line_and_is_redone_from_scratch(front: Front) -> None:
    front.stub("python3.11")
    front.fail_file.touch()
    done = front("demo")
    assert done.returncode == 2
    assert "installation failed (no wheel)" in done.stderr.splitlines()[-1]
    assert not any("dpsnn.cli" in call for call in front.calls)
    front.fail_file.unlink()
    assert front("demo").returncode == 0
    assert front.calls[0] == "path/python3.11 -m venv --clear .venv"
    assert front.calls[-1] == ".venv/python -m dpsnn.cli demo"


def test_interrupted_installation_is_redone_from_scratch(front: Front) -> None:
    front.stub("python3.11")
    front("demo")
    (front.repo / ".venv" / "environment-lock.yml").unlink()
    (front.repo / ".venv" / "installing").touch()
    assert front("demo").returncode == 0
    assert front.calls[0] == "path/python3.11 -m venv --clear .venv"
    assert len(front.installs) == 2


def test_venv_that_somebody_else_made_is_kept_and_filled(front: Front) -> None:
    front.stub("python3.11")
    (front.repo / ".venv" / "bin").mkdir(parents=True)
    shutil.copy2(front.bin / "python3.11", front.repo / ".venv" / "bin" / "python")
    (front.repo / ".venv" / "keep_me").touch()
    assert front("demo").returncode == 0
    assert len(front.installs) == 2
    assert (front.repo / ".venv" / "keep_me").exists()


@pytest.mark.parametrize("name", ["python3.12", "python3.13", "python3", "python"])
def test_any_new_enough_python_will_do(front: Front, name: str) -> None:
    front.stub(name)
    assert front("demo").returncode == 0
    assert front.calls[0] == f"path/{name} -m venv --clear .venv"


@pytest.mark.parametrize("present", [[], ["python3", "python"]])
def test_without_a_new_enough_python_one_line_says_what_to_do(
    front: Front, present: list[str]
) -> None:
    for name in present:
        front.stub(name, "too_old")
    done = front("demo")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "Python 3.11 or newer" in line and "activate" in line
    assert not (front.repo / ".venv").exists()


def test_test_group_hands_its_options_to_pytest(front: Front) -> None:
    front.stub("python", "has_dpsnn")
    assert front("test", "-m", "slow", "tests/x.py").returncode == 0
    assert front.calls == ["path/python -m pytest -m slow tests/x.py"]


def test_dry_run_of_the_tests_prints_the_command_only(front: Front) -> None:
    front.stub("python", "has_dpsnn")
    done = front("test", "-m", "slow", "--dry-run")
    assert done.stdout.split()[1:] == ["-m", "pytest", "-m", "slow"]
    assert front.calls == []


def test_active_environment_without_pytest_gets_one_line(front: Front) -> None:
    front.stub("python", "has_dpsnn", "no_pytest")
    done = front("test")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install -e '.[test]'" in line
    assert front.calls == []


def test_docs_builds_the_site_and_every_warning_is_an_error(front: Front) -> None:
    front.stub("python", "has_dpsnn")
    done = front("docs")
    assert front.calls == ["path/python -m sphinx -W --keep-going -q -b html docs docs/_build"]
    assert done.stdout == f"{front.repo}/docs/_build/index.html\n"
    done = front("docs", "--dry-run")
    assert front.calls == [] and done.stdout.endswith(
        "python -m sphinx -W --keep-going -q -b html docs docs/_build\n"
    )
    assert front("docs", "--fast").returncode == 2


def test_docs_without_sphinx_says_how_to_get_it(front: Front) -> None:
    front.stub("python", "has_dpsnn", "no_sphinx")
    done = front("docs")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and front.calls == [] and "pip install -e '.[docs]'" in line


def test_install_prints_the_python_that_the_groups_use(front: Front) -> None:
    front.stub("python3.11")
    done = front("install")
    assert done.stdout == f"{front.repo}/.venv/bin/python\n"
    assert len(front.installs) == 2


@pytest.mark.parametrize("active", [False, True])
def test_an_extra_gets_an_environment_of_its_own(front: Front, active: bool) -> None:
    front.stub("python3.11")
    if active:
        front.stub("python", "has_dpsnn")
    done = front("secure", "--dataset", "digits")
    assert done.returncode == 0
    assert front.calls[0] == "path/python3.11 -m venv --clear .venv-secure"
    assert front.calls[-1] == ".venv-secure/python -m dpsnn.cli secure --dataset digits"
    assert not (front.repo / ".venv").exists()
    lines = Path(f"{front.calls_file}.requirements").read_text().splitlines()
    assert "spu == 0.9.5" in lines and "numpy" in lines and "pandas" in lines
    assert not any(line.startswith(("numpy==", "pandas==")) for line in lines)
    assert any(line.startswith("torch==") for line in lines)
    assert front("install", "secure").stdout == f"{front.repo}/.venv-secure/bin/python\n"
    assert front.installs == []


def test_a_changed_pin_of_an_extra_installs_it_anew(front: Front) -> None:
    front.stub("python3.11")
    front("secure")
    settings = front.repo / "setup.cfg"
    settings.write_text(settings.read_text().replace("spu == 0.9.5", "spu == 0.9.6"))
    assert front("secure").returncode == 0
    assert len(front.installs) == 2


def test_an_active_environment_with_the_extra_is_used(front: Front) -> None:
    front.stub("python", "has_dpsnn", "has_secure")
    assert front("secure").returncode == 0
    assert front.calls == ["path/python -m dpsnn.cli secure"]


@pytest.mark.parametrize("words", [("--engine", "ray"), ("--engine=submitit", "--jobs", "2")])
def test_engines_lie_over_the_environment_that_is_there(front: Front, words: tuple[str]) -> None:
    front.stub("python", "has_dpsnn")
    assert front("noise", *words).returncode == 0
    assert front.calls[0] == "path/python -m venv --clear .venv-engines"
    assert front.calls[-1] == f".venv-engines/python -m dpsnn.cli noise {' '.join(words)}"
    lines = Path(f"{front.calls_file}.requirements").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["submitit", "ray"], "and no second torch"
    assert len(front.installs) == 1 and not (front.repo / ".venv").exists()
    assert front("install", "engines").stdout == f"{front.repo}/.venv-engines/bin/python\n"
    assert front.installs == []
    # What they lay over has gone: anew, over what there is now.
    (front.repo / ".venv-engines/bin/has_engines").unlink()
    assert front("install", "engines").returncode == 0 and len(front.installs) == 1


def test_engines_install_first_what_they_lie_over(front: Front) -> None:
    front.stub("python3.11")
    assert front("install", "engines").stdout == f"{front.repo}/.venv-engines/bin/python\n"
    made = [call for call in front.calls if " -m venv " in call]
    assert made == [
        "path/python3.11 -m venv --clear .venv",
        ".venv/python -m venv --clear .venv-engines",
    ]
    assert front("noise", "--engine", "local").returncode == 0
    assert front.calls == [".venv/python -m dpsnn.cli noise --engine local"]


def test_an_extra_without_an_environment_of_its_own_is_refused(front: Front) -> None:
    front.stub("python3.11")
    done = front("install", "notebooks")
    assert done.returncode == 2 and "choose from: federated, secure" in done.stderr
    assert front.calls == []


def put_packages(folder: Path) -> None:
    for package in ("dpsnn", "torch"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise SystemExit('slow to import')")


@pytest.mark.parametrize("installed", [True, False])
def test_packages_count_where_installed_but_not_in_the_source_folder(
    front: Front, tmp_path: Path, installed: bool
) -> None:
    # A real interpreter without site-packages; what is installed comes from `site` alone.
    front.stub("python3.11")
    site = tmp_path / "site"
    site.mkdir()
    real = Path(sys.executable).resolve()
    (front.bin / "python").write_text(f"""#!/bin/bash
[[ $* == *dpsnn.cli* ]] && exit 7
PYTHONPATH="{site}" exec "{real}" -S "$@"
""")
    (front.bin / "python").chmod(0o755)
    put_packages(site if installed else front.repo)
    done = front("demo")
    assert done.returncode == (7 if installed else 0)
    assert len(front.installs) == (0 if installed else 2)


@pytest.mark.skipif(not shutil.which("flock"), reason="main.sh waits for another one by flock")
def test_two_calls_at_once_install_once(front: Front) -> None:
    front.stub("python3.11")
    (front.bin / "flock").symlink_to(str(shutil.which("flock")))
    command = [front.repo / "main.sh", "demo"]
    both = [subprocess.Popen(command, env=front.environment) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(front.installs) == 2
    assert front.calls[-2:] == [".venv/python -m dpsnn.cli demo"] * 2


def test_ctrl_c_exits_130(front: Front) -> None:
    front.stub("python", "has_dpsnn")
    process = subprocess.Popen(
        [front.repo / "main.sh", "test", "SLEEP"],
        env=front.environment,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and so would this child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    deadline = time.monotonic() + 30
    while not front.calls and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=30) == 130


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_installation_is_one_line_and_is_made_up_for(
    front: Front, stop: signal.Signals
) -> None:
    front.stub("python3.11")
    slow = Path(f"{front.fail_file}.slow")
    slow.touch()
    process = subprocess.Popen(
        [front.repo / "main.sh", "demo"],
        env=front.environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    deadline = time.monotonic() + 30
    while not front.installs and time.monotonic() < deadline:
        time.sleep(0.02)
    # A scheduler signals this process alone, and pip is to end all the same.
    asked = time.monotonic()
    process.send_signal(stop)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - asked < 10
    assert err.splitlines()[-1] == "main.sh: interrupted; call it again to go on"
    assert "Terminated" not in err
    slow.unlink()
    assert front("demo").returncode == 0
    assert front.calls[-1] == ".venv/python -m dpsnn.cli demo"

#!/usr/bin/env bash
# The front door: ./main.sh GROUP [options]. Finds or makes an environment, then hands everything after GROUP on.
#
# Which Python: the active one if it has dpsnn and torch; else .venv, which is made from environment-lock.yml
# first where it is missing, unfinished or older than the lock. Standard output is left to the group itself.
# A group that needs an extra which cannot live with the locked versions has an environment of its own, .venv-EXTRA;
# the engines submitit and Ray, which can, lie in .venv-engines over the one that is there.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

groups='
  audit        how much of its inputs any model leaks at each cut, and what is guaranteed
  calibrate    the noise that keeps a promise to users of any model, and what it costs
  demo         every defence and its attacker on the embedded digits, with a table and a picture (offline, minutes)
  test         the fast tests; options go to pytest (-m slow for the slow ones)
  plain        the undefended classifier and its attacker
  noise        classifiers with noise on the wire at several scales, and their attackers
  nopeek       classifiers trained with NoPeek at several weights, and their attackers
  combo        noise and NoPeek together, and their attackers
  post_noise   noise set on the plain classifier after training, and its attackers
  volume       attackers of the plain classifier with 2 to 100 % of their images
  shift        attackers whose own images are of another kind
  queries      attackers that average 1 to 64 transmissions of an image
  headline     the table of the README: plain, noise 0.5 and 1.0, NoPeek 0.5, noise 1.0 with NoPeek 0.5, and their attackers
  published    the experiments of the paper by their own protocol, flaws included, in results/published
  omniglot     alphabets: targets with and without DP-SGD, as published and fairly, and their attackers
  suppress     LeNet-5 with and without suppress-privacy, inverted at every cut by white-box attacks and decoders
  faces        classifiers of people with and without DP-SGD, whose training faces MI-FACE rebuilds
  federated    clients who train together with Flower, by secure averaging and in the open
  secure       encrypted inference: three workers classify images that none of them sees, with weights that none sees
  report       the page of an audit, made anew from its JSON, and a gate for pipelines
  figures      draw every figure from the tables and checkpoints
  performance  measure every trained classifier and attacker and write the tables
  verify       find what is missing, changed or belongs to nothing in the folders of models and results
  clean        name what unfinished work has left in these folders, and remove it when told to
  bench        run every benchmark against its baseline, and put all in one table
  all          plain, noise, nopeek, combo, post_noise, volume, shift and queries, with the tables and figures
  docs         build the site of the documentation, docs/_build/index.html
  install      make .venv if need be and print the Python that the groups use; `install secure`: .venv-secure, likewise federated, engines'

usage() {
    echo "usage: ./main.sh GROUP [options]"
    echo "$groups" | sed 1d
    echo "Options go to the group: ./main.sh GROUP --help lists them, --dry-run prints the commands only."
    echo "Relative paths start from this folder: $PWD"
}
# meant WORD: ` (did you mean GROUP?)`, for a group that WORD begins, in any case, or that is one or two letters off.
meant() {
    sed -n 's/^  \([a-z_]*\)  .*/\1/p' <<<"$groups" | awk -v word="$1" '
function least(a, b) { return a < b ? a : b }
function steps(a, b,    i, j, m, n, d) { # insertions, deletions and exchanges that make b of a
    m = length(a); n = length(b)
    for (i = 0; i <= m; i++) d[i, 0] = i
    for (j = 0; j <= n; j++) d[0, j] = j
    for (i = 1; i <= m; i++) for (j = 1; j <= n; j++)
        d[i, j] = least(least(d[i - 1, j], d[i, j - 1]) + 1, d[i - 1, j - 1] + (substr(a, i, 1) != substr(b, j, 1)))
    return d[m, n]
}
BEGIN { word = tolower(word); gsub("-", "_", word); best = 3 }
{ far = index($0, word) == 1 && word ? 0 : steps(word, $0) }
far < best && far < length($0) - 1 { best = far; found = $0 }
END { if (found) printf " (did you mean %s?)", found }' 2>/dev/null
}
say() { echo "main.sh: $*" >&2; }
fail() { say "$*"; exit 2; }

# Ctrl-C, SIGTERM and SIGHUP: one line and 130, also while something runs that takes minutes; that is ended too.
exec 8>&2 # said there even where standard error is turned away, lest the shell itself speak of what was terminated
child=''
interrupted() {
    trap '' INT TERM HUP
    [[ -z $child ]] || { kill "$child" && wait "$child" || true; } 2>/dev/null
    say "interrupted; call it again to go on" 2>&8
    exit 130
}
trap interrupted INT TERM HUP

# In the background, as a shell acts upon a signal only after what runs in the foreground.
patiently() {
    local status=0
    "$@" </dev/null 8>&- &
    child=$!
    wait "$child" || status=$?
    child=''
    return "$status"
}

# has PYTHON MODULE...: can PYTHON import these? Asked from elsewhere, so that ./dpsnn itself does not count;
# looks without importing, as torch alone takes seconds. Fails for Python < 3.11, which has no -P.
has() {
    {
        (cd / && "$1" -P -c '
import sys
from importlib.util import find_spec
specs = [find_spec(module) for module in sys.argv[1:]]
sys.exit(not all(spec and spec.origin for spec in specs))' "${@:2}")
    } >/dev/null 2>&1
}

# What an extra needs beside dpsnn and torch, as modules, and which locked packages give way to it.
needs() {
    case $1 in
        secure) echo spu cryptography ;;
        federated) echo flwr cryptography ;;
        engines) echo submitit ray ;;
    esac
}
unlocked() {
    case $1 in
        secure) echo 'numpy|pandas' ;; # spu needs numpy below 2, the locked pandas numpy 2
        federated) echo 'certifi|packaging|protobuf|rich|virtualenv' ;; # Flower wants older ones
    esac
}

requirements() {
    if [[ $extra == engines ]]; then
        sed -En '/^(slurm|ray) =/,/^[^ ]/ s/^    //p' setup.cfg
        return
    fi
    if [[ -z $extra ]]; then
        sed -n '/^  - pip:/,$ s/^      - //p' environment-lock.yml
        return
    fi
    sed -n '/^  - pip:/,$ s/^      - //p' environment-lock.yml | grep -Ev "^($(unlocked "$extra"))=="
    tr '|' '\n' <<<"$(unlocked "$extra")"
    sed -n "/^$extra =/,/^[^ ]/ s/^    //p" setup.cfg
}

# A Python to make an environment with: the first that is new enough and is not that of the unfinished one itself.
find_python() {
    local candidate
    while read -r candidate; do
        if "$candidate" -c '
import ensurepip, os, sys, venv
sys.exit(sys.version_info < (3, 11) or os.path.realpath(sys.argv[1]) == os.path.realpath(sys.prefix))' "$venv" </dev/null &>/dev/null
        then
            echo "$candidate"
            return
        fi
    done < <(type -aP python3.11 python3.12 python3.13 python3 python)
    return 1
}

# The copy of the lock is put there last, so it also says that the installation was finished. What .venv-engines lies
# over may have gone since.
is_complete() {
    # shellcheck disable=SC2046
    [[ -x $venv/bin/python ]] && cmp -s environment-lock.yml "$venv/environment-lock.yml" &&
        cmp -s <(requirements) "$venv/requirements.txt" &&
        { [[ $extra != engines ]] || has "$PWD/$venv/bin/python" dpsnn torch $(needs engines); }
}

pip_install() {
    patiently "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar off "$@" \
        >"$venv/install.log" 2>&1 ||
        fail "installation failed ($(sed -n 's/^ERROR: //p' "$venv/install.log" | tail -n 1));" \
            "see $venv/install.log, then call ./main.sh again"
}

make_venv() {
    local python
    python=${base:-$(find_python)} ||
        fail "no Python 3.11 or newer with venv and pip found; install one, or activate an environment that has dpsnn"
    if [[ -n $base || -e "$venv/installing" ]] || ! "$venv/bin/python" -P -c 'import pip' >/dev/null 2>&1; then
        say "making $venv with $("$python" --version)"
        patiently "$python" -m venv --clear "$venv" >&2 || fail "$python could not make $venv in $PWD"
    fi
    touch "$venv/installing"
    requirements >"$venv/requirements.txt"
    if [[ -n $base ]]; then
        lay_over
    else
        install_all
    fi
    cp environment-lock.yml "$venv/environment-lock.yml"
    rm "$venv/installing"
    say "done; $venv is ready"
}

install_all() {
    say "installing the $(wc -l <"$venv/requirements.txt" | tr -d ' ') packages of" \
        "environment-lock.yml${extra:+ and the extra $extra} into $venv (several GB, some minutes; progress in $venv/install.log)"
    pip_install -r "$venv/requirements.txt"
    say "installing dpsnn itself, from this folder"
    pip_install --no-deps --no-build-isolation -e .
}

# Everything of $base is found from $venv too, and pip adds only what it lacks.
lay_over() {
    "$venv/bin/python" -c '
import sys, sysconfig
with open(sysconfig.get_path("purelib") + "/beneath.pth", "w") as file:
    file.write(f"import site; site.addsitedir({sys.argv[1]!r})\n")' \
        "$("$base" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    say "installing $(needs "$extra") into $venv, over $base (0.3 GB, a minute; progress in $venv/install.log)"
    pip_install -r "$venv/requirements.txt"
}

choose_python() {
    # shellcheck disable=SC2046
    if has python dpsnn torch $(needs "$extra"); then
        python=$(command -v python)
        return
    fi
    base=''
    if [[ $extra == engines ]]; then
        local own=$venv
        extra='' venv=.venv
        choose_python
        base=$python extra=engines venv=$own
    fi
    python=$PWD/$venv/bin/python
    if is_complete; then return; fi
    # Two calls at once must not install into one folder: the second waits on this file (where flock exists).
    exec 9<"$PWD/main.sh"
    if command -v flock >/dev/null && ! flock -n 9; then
        say "waiting for another main.sh that is installing"
        flock 9
    fi
    is_complete || make_venv
    exec 9<&-
}

run_tests() {
    if [[ " $* " == *" --dry-run "* ]]; then
        echo "$python -m pytest ${*/#--dry-run/}"
        return
    fi
    has "$python" pytest xdist beartype ||
        fail "$python has no pytest, pytest-xdist or beartype; run: $python -m pip install -e '.[test]'"
    "$python" -m pytest "$@"
}

build_docs() {
    local words=(-m sphinx -W --keep-going -q -b html docs docs/_build)
    if [[ " $* " == *" --dry-run "* || " $* " == *" --dry_run "* ]]; then
        echo "$python ${words[*]}"
        return
    fi
    [[ $# -eq 0 ]] || fail "docs takes no options but --dry-run"
    has "$python" sphinx myst_parser pydata_sphinx_theme ||
        fail "$python has no sphinx, myst-parser or pydata-sphinx-theme; run: $python -m pip install -e '.[docs]'"
    "$python" "${words[@]}" >&2
    echo "$PWD/docs/_build/index.html"
}

group=${1-}
case $group in
    -h | --help) usage; exit 0 ;;
    '') usage >&2; exit 2 ;;
esac
if [[ $groups != *$'\n'"  $group  "* ]]; then
    say "unknown group '$group'$(meant "$group")"
    usage >&2
    exit 2
fi
shift

extra=''
case $group in
    secure | federated) extra=$group ;;
    install) extra=${1-} ;;
    test | docs) ;;
    *) if [[ " $* " =~ \ --engine[=\ ](ray|submitit)\  ]]; then extra=engines; fi ;;
esac
[[ -z $extra || -n $(needs "$extra") ]] || fail "the extra '$extra' has no environment of its own; choose from: federated, secure, engines"
venv=.venv${extra:+-$extra}
choose_python
case $group in
    install) echo "$python" ;;
    test) run_tests "$@" ;;
    docs) build_docs "$@" ;;
    *)
        # Signals wait until dpsnn can take them: a Python that is still starting would answer with a traceback.
        calmly=(env --block-signal=INT --block-signal=TERM --block-signal=HUP)
        "${calmly[@]}" true 2>/dev/null || calmly=() # not on macOS
        exec ${calmly[@]+"${calmly[@]}"} "$python" -m dpsnn.cli "$group" "$@" 8>&-
        ;;
esac

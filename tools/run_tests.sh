#!/usr/bin/env bash
# Runs the linter, the format check, the type checker and the tests; arguments go to pytest:
#
#   bash tools/run_tests.sh -k hook
#
# Test files run two at a time, which suits two cores or more: what they start waits a lot. Another number: -n 4; one
# after the other, to debug: -n 0.
set -uo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/_env.sh"
use_env --dev
cd "$ROOT" || exit 1

summary=''
failed=0

check() { # NAME COMMAND...
    local name=$1 start=$SECONDS verdict=passed
    shift
    printf '\n== %s\n' "$name"
    "$@" </dev/null || {
        verdict=FAILED
        failed=1
    }
    summary+=$(printf '%-6s  %-12s %4d s' "$verdict" "$name" $((SECONDS - start)))$'\n'
}

check 'ruff check' python -m ruff check .
check 'ruff format' python -m ruff format --check .
check mypy python -m mypy
check pytest python -m pytest -n 2 --dist loadfile "$@"

printf '\n%s' "$summary"
exit "$failed"

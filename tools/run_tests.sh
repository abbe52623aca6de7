#!/usr/bin/env bash
# Runs the linter, the format check, the type checker and the tests; arguments go to pytest:
#
#   bash tools/run_tests.sh -k hook
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
check pytest python -m pytest "$@"

printf '\n%s' "$summary"
exit "$failed"

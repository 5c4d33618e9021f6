# sourced by the examples: the program, the models and where collections live
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
maru=${MARU:-build/maru}
export MARU_HOME=${MARU_HOME:-$PWD/build/demo}
[ -x "$maru" ] || { echo "build first: make" >&2; exit 1; }
need() { "$maru" pull "$1" >/dev/null || exit 1; }

#!/usr/bin/env bash
# make demo: fetches two small open models, adds the sample documents, asks in Korean and English. Everything it makes lies in
# build/demo (MARU_HOME), so it can be thrown away. DEMO_MODEL=none: no language model, the best sentences are quoted.
set -euo pipefail
cd "$(dirname "$0")/.."
export MARU_HOME=${MARU_HOME:-$PWD/${BUILD:-build}/demo} PYTHONWARNINGS=ignore
maru=${BUILD:-build}/maru model=${DEMO_MODEL:-qwen2.5-coder-1.5b}
start=$SECONDS
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

say "1. Two open models, verified by hash (maru pull)"
$maru pull e5-small
if [ "$model" != none ]; then $maru pull "$model"; fi

say "2. The sample documents: Markdown, HTML, PDF, CSV, plain text in CP949 (maru add)"
$maru add samples/docs --to demo -e e5-small
$maru docs demo

say "3. Questions (maru ask): every sentence with its file, page or line, and characters"
ask() {
  say "? $1"
  if [ "$model" = none ]; then $maru ask "$1" --in demo; else $maru ask "$1" --in demo -m "$model"; fi
}
ask "업무용 노트북을 택시에 두고 내렸습니다. 언제까지 신고해야 하나요?"
ask "부서장으로 일하다가 그만두려고 합니다. 며칠 전에 알려야 하나요?"
ask "비밀번호는 얼마나 자주 바꿔야 하나요?"
ask "국내 출장 숙박비는 하루에 얼마까지 쓸 수 있나요?"
ask "How many days of annual leave can be carried over?"
ask "When must a supplier report a security incident?"
ask "회사 주차장에 자리가 몇 개 있나요?"
say "done in $((SECONDS - start)) s; try: MARU_HOME=$MARU_HOME $maru ask '...' --in demo -m $model"

#!/usr/bin/env bash
# maru quantize as scripts use it: fields, refusals, importances, kills. Prints cmocka-like lines.
maru=${BUILD:-build}/maru
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export MARU_HOME=$work/home LC_ALL=C.UTF-8
failed=0
ok() { # NAME, then a command
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then echo "[       OK ] $name"; grep kills "$work/log"; else echo "[  FAILED  ] $name"; head -5 "$work/log" "$work/err" "$work/out" | cut -c1-400; failed=1; fi
}
json() { python3 -c "import json,sys; o=json.load(open('$work/out')); assert $1, o"; }
run() { "$maru" "$@" >"$work/out" 2>"$work/err"; code=$?; }

no_type() { run quantize a.gguf b.gguf; [ $code = 2 ] && grep -q -e '--type T' "$work/err"; }
bad_type() { run quantize a.gguf b.gguf --type q9; [ $code = 2 ] && grep -q 'q4_k_m' "$work/err"; }
no_out() { run quantize a.gguf --type q4_0; [ $code = 2 ] && grep -q OUT "$work/err"; }
not_a_model() { echo hello >"$work/x"; run quantize "$work/x" "$work/y" --type q4_0 --json; [ $code = 3 ] && json "o['error']['code']=='FORMAT'" && [ ! -e "$work/y" ]; }
ok a_type_is_asked_for no_type
ok types_are_named bad_type
ok an_output_is_asked_for no_out
ok not_a_model_is_refused not_a_model

smol=
for d in "${MARU_MODELS:-/nonexistent}" "$HOME/.cache/maru/models" "${XDG_DATA_HOME:-$HOME/.local/share}/maru/models"; do [ -z "$smol" ] && [ -e "$d/smollm2-135m.gguf" ] && smol=$d/smollm2-135m.gguf; done
if [ -z "$smol" ]; then echo "skipped: smollm2-135m is not here"; echo "[  SKIPPED ] quantize"; exit $failed; fi
f32=$work/f32.gguf

again() { run quantize "$smol" "$work/q" --type q4_0 --json; [ $code = 2 ] && json "'--requantize' in o['error']['message']" && [ ! -e "$work/q" ]; }
expands() { run quantize "$smol" "$f32" --type f32 --requantize --json; [ $code = 0 ] && json "o['requantized'] and o['bytes']['after']>5*o['bytes']['before'] and all(t['rmse']==0 for t in o['tensors'])"; }
onto_itself() { cp "$f32" "$work/same"; run quantize "$work/same" "$work/same" --type q4_0 --json; [ $code = 2 ] && json "'is the input' in o['error']['message']" && cmp -s "$f32" "$work/same"; rm "$work/same"; }
fields() {
  head -c 3000 README.md >"$work/t.txt"
  run quantize "$f32" "$work/q" --type q4_k_m --eval "$work/t.txt" --svg "$work/r.svg" --json; [ $code = 0 ] || return 1
  json "o['ratio']>4 and not o['requantized'] and o['bytes']['after']<o['bytes']['before'] and 0<o['kld']<1 and 0.5<o['top1_same']<=1 and o['nll']['before']>0 and o['nll']['after']>0 and o['decode_tps']['after']>0 and len(o['worst'])==10 and len(o['tensors'])==272 and o['machine']['int8_gops']>0 and o['memory']['after']>0" &&
    [ -s "$work/r.svg" ] && python3 -c "import xml.dom.minidom; xml.dom.minidom.parse('$work/r.svg')"
}
runs() { run run "$work/q" 'The capital of France is' -n 4 --json; [ $code = 0 ] && json "len(o['ids'])==4"; }
collects() {
  run quantize "$f32" "$work/q2" --type q3_k_s --json; [ $code = 0 ] || return 1
  run quantize "$f32" "$work/q2" --type q3_k_s --collect "$work/t.txt" -o "$work/i.gguf" --json; [ $code = 0 ] && json "o['imatrix']['entries']==210" && cp "$work/out" "$work/first" || return 1
  run quantize "$f32" "$work/q3" --type q3_k_s --imatrix "$work/i.gguf" --json; [ $code = 0 ] && cmp "$work/q2" "$work/q3" && json "all('weighted_rmse' in t for t in o['tensors'] if t['from']!=t['to'] and t['name']!='token_embd.weight')"
}
better() {
  run quantize "$f32" "$work/q2" --type q4_0 --json; [ $code = 0 ] && cp "$work/out" "$work/first" || return 1
  run quantize "$f32" "$work/q3" --type q4_0 --search better --json; [ $code = 0 ] && json "o['bytes']['after']==json.load(open('$work/first'))['bytes']['after'] and all(b['rmse']<a['rmse'] for a,b in zip(json.load(open('$work/first'))['tensors'],o['tensors']) if a['from']!=a['to'])"
}
full() { # the disk is full: an error, and nothing of the name
  ( ulimit -f 20000; trap '' XFSZ; "$maru" quantize "$f32" "$work/full" --type q8_0 --json >"$work/out" 2>"$work/err" ); code=$?
  [ $code = 4 ] && json "o['error']['code']=='IO'" && [ ! -e "$work/full" ] && ! ls -A "$work" | grep -q '^\.full'
}
kills() { # kill -9 anywhere: nothing, or the whole file; 6 that hit, MARU_HEAVY=1: 50
  local n=${MARU_HEAVY:+50} hit=0 tries=0 whole=0 start span; n=${n:-6}
  start=$(date +%s%N)
  "$maru" quantize "$f32" "$work/k.whole" --type q8_0 -q >/dev/null 2>&1 || return 1
  span=$(($(date +%s%N) - start))
  while [ $hit -lt "$n" ] && [ $tries -lt $((8 * n)) ]; do
    tries=$((tries + 1)); rm -f "$work/k"
    "$maru" quantize "$f32" "$work/k" --type q8_0 -q >/dev/null 2>&1 & local pid=$!
    sleep "$(python3 -c "import random; print(random.uniform(0, 1.1 * $span / 1e9))")"; kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
    [ $? = 137 ] && hit=$((hit + 1))
    if [ -e "$work/k" ]; then whole=$((whole + 1)) span=$((span * 9 / 10)); cmp -s "$work/k" "$work/k.whole" || return 1; fi
    ls -A "$work" | grep -q '^\.k' && return 1
  done
  echo "$hit of $tries kills hit, $whole whole files"; [ $hit -ge "$n" ]
}
ok quantised_input_is_refused again
ok expands_to_f32 expands
ok output_onto_input_is_refused onto_itself
ok the_report_has_its_fields fields
ok what_was_written_runs runs
ok importances_are_collected_kept_used collects
[ -n "$MARU_HEAVY" ] && ok better_search_is_better better # a minute; tests/quant has it in small
ok full_disk_leaves_nothing full
ok kills_leave_nothing_half kills
exit $failed

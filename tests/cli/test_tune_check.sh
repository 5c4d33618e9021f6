#!/usr/bin/env bash
# maru tune check as scripts use it. Prints cmocka-like lines.
maru=${BUILD:-build}/maru
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export MARU_HOME=$work/home LC_ALL=C.UTF-8
failed=0
ok() { # NAME, then a command
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then echo "[       OK ] $name"; else echo "[  FAILED  ] $name"; head -5 "$work/log"; failed=1; fi
}
json() { python3 -c "import json,sys; o=json.load(open('$work/out')); assert $1, o"; } # a condition on the object printed
check() { "$maru" tune check "$@" >"$work/out" 2>"$work/err"; code=$?; }

no_model() { check x.jsonl; [ $code = 2 ] && grep -q -e '-m MODEL' "$work/err"; }
every_help() { "$maru" tune check --help | grep -q -e '--template'; }
ok help_of_check every_help
ok a_model_is_asked_for no_model

smol=
for d in "${MARU_MODELS:-/nonexistent}" "$HOME/.cache/maru/models" "${XDG_DATA_HOME:-$HOME/.local/share}/maru/models"; do [ -z "$smol" ] && [ -e "$d/smollm2-135m.gguf" ] && smol=$d/smollm2-135m.gguf; done
if [ -z "$smol" ]; then echo "skipped: smollm2-135m is not here"; echo "[  SKIPPED ] tune_check"; exit $failed; fi

chats() { check samples/tune/chat.jsonl -m "$smol" --json; [ $code = 0 ] && json "o['samples']==8 and o['formats']=={'messages':8} and 0<o['trainable_tokens']<o['tokens'] and o['problems']==[] and o['packing']['batches']==1"; }
masks() { check samples/tune/chat.jsonl -m "$smol"; [ $code = 0 ] && grep -qF '⟦You have 15 days a year, and up to 8 of them can be carried over.<|im_end|>⟧' "$work/out" && ! grep -q $'\033' "$work/out"; }
labels() { check samples/tune/reviews.tsv -m "$smol" --template '리뷰: {text}\n감정:' --labels '부정= bad,긍정= good' --json; [ $code = 0 ] && json "o['formats']=={'label':12} and o['trainable_tokens']==12 and o['labels'][1]=={'label':'긍정','word':' good','samples':6} and o['template']=='리뷰: {text}'+chr(92)+'n감정:'"; }
refuses() { printf '{"messages":[{"role":"user","content":"q"}]}\n{bad\n' >"$work/bad.jsonl"; check "$work/bad.jsonl" -m "$smol" --json; [ $code = 3 ] && json "o['error']['code']=='FORMAT' and [(p['kind'],p['line'],p['refused']) for p in o['problems']]==[('no-target',1,True),('malformed',2,True)] and o['samples']==0"; }
notes() { printf '{"prompt":"a<|im_end|>b","completion":"c"}\n' >"$work/note.jsonl"; check "$work/note.jsonl" -m "$smol" --json; [ $code = 0 ] && json "o['problems'][0]['kind']=='special-text' and not o['problems'][0]['refused']"; }
absent() { check "$work/nosuch.jsonl" -m "$smol" --json; [ $code = 11 ] && json "o['error']['code']=='NOTFOUND'"; }
too_long() { check samples/tune/chat.jsonl -m "$smol" --ctx 60 --json; [ $code = 3 ] && json "any(p['kind']=='too-long' for p in o['problems'])" && check samples/tune/chat.jsonl -m "$smol" --ctx 152 --truncate --json && [ $code = 0 ] && json "o['lengths']['max']==152 and o['problems'][0]['kind']=='truncated'"; }
plans() { # bytes of the way asked, lora when none is
  check samples/tune/chat.jsonl -m "$smol" --json && json "o['plan']['way']=='lora' and o['plan']['trainable']==4884480 and o['plan']['bytes']==sum(o['plan'][k] for k in ('model','data','trained','optimizer','step','rest'))" || return 1
  check samples/tune/chat.jsonl -m "$smol" --train prompt:4 --json && json "o['plan']['trainable']==4*576 and 0<o['plan']['step']<o['plan']['bytes']" || return 1
  check samples/tune/reviews.tsv -m "$smol" --train features && grep -q 'memory plan  features: 0\.' "$work/out" || return 1
  check samples/tune/chat.jsonl -m "$smol" --train features; [ $code = 0 ] && grep -q 'memory plan  features: .*expected rows of text and label' "$work/out"
}
ok memory_is_planned plans
ok conversations chats
ok masks_in_brackets masks
ok labels_and_words labels
ok what_teaches_nothing_is_refused refuses
ok special_text_is_noted notes
ok missing_file_is_notfound absent
ok nothing_is_cut_silently too_long
exit $failed

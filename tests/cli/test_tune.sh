#!/usr/bin/env bash
# maru tune, eval classify and --adapter as scripts use them. Prints cmocka-like lines.
maru=${BUILD:-build}/maru
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export MARU_HOME=$work/home LC_ALL=C.UTF-8
failed=0
ok() { # NAME, then a command
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then echo "[       OK ] $name"; else echo "[  FAILED  ] $name"; head -5 "$work/log" "$work/err"; failed=1; fi
}
json() { python3 -c "import json,sys; o=json.load(open('$work/out')); assert $1, o"; } # a condition on the object printed
run() { "$maru" "$@" >"$work/out" 2>"$work/err"; code=$?; }

no_out() { run tune m.gguf x.jsonl --train lora; [ $code = 2 ] && grep -q -e '-o DIR' "$work/err"; }
no_way() { run tune m.gguf x.jsonl -o "$work/x"; [ $code = 2 ] && grep -q -e '--train WAY' "$work/err"; }
bad_way() { run tune m.gguf x.jsonl -o "$work/x" --train dora; [ $code = 2 ] && grep -q 'lora\[:R\]' "$work/err"; }
ok a_folder_is_asked_for no_out
ok a_way_is_asked_for no_way
ok ways_are_named bad_way

smol=
for d in "${MARU_MODELS:-/nonexistent}" "$HOME/.cache/maru/models" "${XDG_DATA_HOME:-$HOME/.local/share}/maru/models"; do [ -z "$smol" ] && [ -e "$d/smollm2-135m.gguf" ] && smol=$d/smollm2-135m.gguf; done
if [ -z "$smol" ]; then echo "skipped: smollm2-135m is not here"; echo "[  SKIPPED ] tune"; exit $failed; fi

form=(--template '{text}\nfeeling:' --labels '부정= bad,긍정= good')
learns() {
  run tune "$smol" samples/tune/reviews.tsv --eval samples/tune/reviews.tsv -o "$work/a" --train lora:4 --lr 2e-3 --epochs 4 "${form[@]}" --json
  [ $code = 0 ] && json "o['way']=='lora:4' and o['trainable']==1221120 and o['tokens']>0 and o['eval_loss']<o['train_loss'] and o['metric']['n']==12 and o['planned_bytes']>=o['peak_bytes']>0 and o['effect']>0.01 and o['artifact']=='$work/a' and o['artifact_bytes']>0" &&
    [ "$(wc -l <"$work/a/log.jsonl")" = 4 ] && [ -s "$work/a/curves.svg" ] && cp "$work/out" "$work/first"
}
finished() { # --resume of a finished run succeeds and changes nothing
  sha256sum "$work/a/adapter_model.safetensors" >"$work/sum"
  run tune "$smol" samples/tune/reviews.tsv --eval samples/tune/reviews.tsv -o "$work/a" --train lora:4 --lr 2e-3 --epochs 4 "${form[@]}" --resume --json
  [ $code = 0 ] && json "o['eval_loss']==json.load(open('$work/first'))['eval_loss']" && sha256sum -c --quiet "$work/sum"
}
again() { # what is there is not replaced unasked; two ways at once are none
  sha256sum "$work/a/adapter_model.safetensors" "$work/a/state.safetensors" >"$work/sum"
  run tune "$smol" samples/tune/reviews.tsv -o "$work/a" --train lora:4 "${form[@]}" --json; [ $code = 2 ] && json "'--resume' in o['error']['message'] and '--force' in o['error']['message']" && sha256sum -c --quiet "$work/sum" || return 1
  run tune "$smol" samples/tune/reviews.tsv -o "$work/a" --train lora:4 "${form[@]}" --resume --force; [ $code = 2 ]
}
other_run() { run tune "$smol" samples/tune/reviews.tsv -o "$work/a" --train lora:4 --lr 1e-3 --epochs 4 "${form[@]}" --resume --json; [ $code = 2 ] && json "'lr' in o['error']['message']"; }
classifies() { # the form and the words come with the adapter
  run eval classify "$smol" samples/tune/reviews.tsv --adapter "$work/a" --json
  [ $code = 0 ] && json "o['n']==12 and o['accuracy']==json.load(open('$work/first'))['metric']['accuracy'] and len(o['ci'])==2 and sum(o['confusion']['긍정'].values())==6"
}
features() {
  run tune "$smol" samples/tune/reviews.tsv -o "$work/f" --train features --features concat4 "${form[@]}" --json; [ $code = 0 ] && json "o['trainable']==4*576*2+2" || return 1
  run eval classify "$smol" samples/tune/reviews.tsv --adapter "$work/f" --json; [ $code = 0 ] && json "o['accuracy']==1"
}
serves() { run run "$smol" 'Hello' -n 4 --adapter "$work/a" --json; [ $code = 0 ] && json "len(o['ids'])>0"; }
chats() { run tune "$smol" samples/tune/chat.jsonl -o "$work/c" --train prompt:4 --steps 1 --json; [ $code = 0 ] && json "o['trainable']==4*576 and o['steps']==1"; }
stops() { # the first Ctrl-C saves, --resume goes on
  "$maru" tune "$smol" samples/tune/chat.jsonl -o "$work/s" --train lora:2 --epochs 40 -q 2>"$work/err" & local pid=$!
  for _ in $(seq 600); do [ -s "$work/s/log.jsonl" ] && break; sleep 0.1; done
  kill -INT $pid; wait $pid; [ $? = 8 ] && [ -s "$work/s/state.safetensors" ] && grep -q -e '--resume' "$work/err"
}
ok lora_learns learns
ok finished_run_is_left_alone finished
ok another_run_is_not_resumed other_run
ok a_run_is_not_replaced_unasked again
ok adapter_brings_form_and_words classifies
ok features_of_four_blocks features
ok adapter_serves serves
ok chats_teach_a_prompt chats
ok interrupt_saves stops
exit $failed

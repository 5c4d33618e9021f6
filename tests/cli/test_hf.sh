#!/usr/bin/env bash
# Hugging Face folders and models from scratch at the command line: convert both ways, a vocabulary from a text, an untrained model that
# learns, a run merged into a folder. Prints cmocka-like lines.
maru=${BUILD:-build}/maru
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export MARU_HOME=$work/home LC_ALL=C.UTF-8
failed=0
ok() { # NAME, then a command
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then echo "[       OK ] $name"; else echo "[  FAILED  ] $name"; head -5 "$work/log" "$work/err"; failed=1; fi
}
skip() { echo "skipped: $2"; echo "[  SKIPPED ] $1"; }
json() { python3 -c "import json,sys; o=json.load(open('$work/out')); assert $1, o"; } # a condition on the object printed
run() { "$maru" "$@" >"$work/out" 2>"$work/err"; code=$?; }
nll() { "$maru" eval nll "$1" "$2" -t 1 --json | python3 -c "import json,sys; print(json.load(sys.stdin)['nll'])"; }
less() { python3 -c "import sys; sys.exit(not ($1) < ($2))"; }

python3 - "$work" <<'P'
import random, sys
random.seed(1)
who, did, what, where = ["The cat", "A dog", "My friend", "The old man", "Anna"], ["saw", "found", "lost", "wanted"], ["a red ball", "the key", "some bread", "a small boat"], ["in the garden", "by the sea", "at home", "in the forest"]
def story(n): return "".join(" ".join(map(random.choice, (who, did, what, where))) + ".\n" for _ in range(n))
open(sys.argv[1] + "/train.txt", "w").write(story(600)); open(sys.argv[1] + "/held.txt", "w").write(story(60))
P
learns_words() { run tokenizer train "$work/train.txt" -o "$work/v.gguf" --size 330 --json; [ $code = 0 ] && json "o['tokens']<=330 and o['merges']==o['tokens']-257 and o['bytes_per_token']>3"; }
cuts() { run tokenize "$work/v.gguf" --text 'The cat saw <|endoftext|>가' --json; [ $code = 0 ] && json "0 in o['ids'] and len(o['ids'])<12"; }
makes() { run new --arch llama --shape d=48,layers=2,heads=4,kv=2,ff=96,ctx=64 --vocab "$work/v.gguf" -o "$work/new.gguf" --json; [ $code = 0 ] && json "o['parameters']>40000" && run new --arch llama --shape d=48,layers=2,heads=4,kv=2,ff=96,ctx=64 --vocab "$work/v.gguf" -o "$work/again.gguf" && tail -c 40000 "$work/new.gguf" | cmp - <(tail -c 40000 "$work/again.gguf"); }
wrong_shapes() {
  run new --arch llama --shape d=48,layers=2,heads=5 --vocab "$work/v.gguf" -o "$work/no.gguf" --json; [ $code = 2 ] || return 1
  run new --arch mamba --shape tiny --vocab "$work/v.gguf" -o "$work/no.gguf" --json; [ $code = 7 ] || return 1
  run new --arch llama --shape tiny -o "$work/no.gguf" --json; [ $code = 2 ] && json "'--vocab' in o['error']['message']" || return 1
  run new --arch llama --shape tiny,width=3 --vocab "$work/v.gguf" -o "$work/no.gguf" --json; [ $code = 2 ] && json "'width=3' in o['error']['message']" && [ ! -e "$work/no.gguf" ]; }
scratch() { # from nothing to half the surprise
  run tune "$work/new.gguf" "$work/train.txt" -o "$work/run" --train all --eval "$work/held.txt" --lr 5e-3 --batch-tokens 256 --steps 60 -t 1 --json; [ $code = 0 ] || return 1
  run merge "$work/new.gguf" "$work/run" -o "$work/learned.gguf" --force -t 1 --json; [ $code = 0 ] || return 1
  run merge "$work/new.gguf" "$work/run" -o "$work/learned" --force -t 1 --json; [ $code = 0 ] && [ -e "$work/learned/model.safetensors" ] || return 1
  a=$(nll "$work/new.gguf" "$work/held.txt") b=$(nll "$work/learned.gguf" "$work/held.txt") c=$(nll "$work/learned" "$work/held.txt")
  echo "held-out: $a before, $b after, $c as a folder" >&2; less "$b" "0.6 * $a" && [ "$b" = "$c" ]; }
both_ways() {
  run convert "$work/learned" "$work/there.gguf" --json; [ $code = 0 ] && json "o['form']=='gguf' and o['widened']==0" || return 1
  run convert "$work/there.gguf" "$work/back" --json; [ $code = 0 ] && json "o['form']=='folder'" && cmp "$work/learned/model.safetensors" "$work/back/model.safetensors" && cmp "$work/learned/tokenizer.json" "$work/back/tokenizer.json" || return 1
  run convert "$work/there.gguf" "$work/back" --json; [ $code = 2 ]; }
folder_is_model() {
  for m in learned there.gguf; do run run "$work/$m" 'The cat' -n 8 -t 1 --json; cp "$work/out" "$work/$m.json"; done
  python3 -c "import json; a,b=(json.load(open('$work/'+m+'.json')) for m in ('learned','there.gguf')); assert a['ids']==b['ids'] and len(a['ids'])==8" || return 1
  run info "$work/learned" --json; json "o['architecture']=='llama' and o['tokenizer']=='gpt2'"; }
refuses() {
  cp -r "$work/learned" "$work/bad"; sed -i 's/"silu"/"relu"/' "$work/bad/config.json"; run run "$work/bad" x --json; [ $code = 7 ] && json "'config.json: hidden_act' in o['error']['message']" || return 1
  mkdir "$work/empty"; run info "$work/empty" --json; [ $code = 3 ]; }
ok tokenizer_train_makes_a_vocabulary learns_words
ok vocabulary_cuts_text cuts
ok new_makes_the_same_model_twice makes
ok shapes_that_cannot_be_are_named wrong_shapes
ok model_from_scratch_learns scratch
ok folder_and_gguf_are_equal both_ways
ok folder_is_a_model folder_is_model
ok unknown_settings_are_named refuses

stories=${MARU_SHARED:-../shared}/data/model-stories260k/stories260K.gguf
if [ -e "$stories" ]; then
  goes_on() { # published weights, a text of another kind in the words they know
    run tune "$stories" "$work/train.txt" -o "$work/s" --train all --lr 1e-3 --ctx 128 --batch-tokens 512 --steps 25 -t 1 --json; [ $code = 0 ] || return 1
    run merge "$stories" "$work/s" -o "$work/s.gguf" --force -t 1 --json; [ $code = 0 ] || return 1
    a=$(nll "$stories" "$work/held.txt") b=$(nll "$work/s.gguf" "$work/held.txt"); echo "stories260K: $a before, $b after" >&2; less "$b" "$a - 0.5"; }
  stories_both_ways() { run convert "$stories" "$work/sf" --json; [ $code = 0 ] && run convert "$work/sf" "$work/sb.gguf" --json && a=$(nll "$stories" "$work/held.txt") b=$(nll "$work/sb.gguf" "$work/held.txt") && [ "$a" = "$b" ]; }
  ok published_weights_learn_on goes_on
  ok stories260k_as_a_folder stories_both_ways
else
  skip published_weights_learn_on "stories260K.gguf is not here"
fi
exit $failed

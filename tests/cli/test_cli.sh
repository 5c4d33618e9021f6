#!/usr/bin/env bash
# The program as scripts use it: exit codes, JSON fields, streams, documents in and out. Prints cmocka-like lines.
maru=${BUILD:-build}/maru
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export MARU_HOME=$work/home LC_ALL=C.UTF-8
failed=0
ok() { # NAME, then a command
  local name=$1; shift
  if "$@" >"$work/log" 2>&1; then echo "[       OK ] $name"; else echo "[  FAILED  ] $name"; head -5 "$work/log"; failed=1; fi
}
skip() { echo "skipped: $2"; echo "[  SKIPPED ] $1"; }
json() { python3 -c "import json,sys; o=json.load(open('$work/out')); assert $1, o"; } # a condition on the object printed
run() { "$maru" "$@" >"$work/out" 2>"$work/err"; code=$?; }

help_fits() { [ "$("$maru" --help | wc -l)" -le 40 ] && "$maru" | grep -q ask; }
every_help() { for c in convert new tokenizer pull models info tokenize run chat embed add sync docs remove text search ask calibrate merge eval bench; do "$maru" $c --help | grep -q "maru $c" || { echo "$c"; return 1; }; done; }
unknown() { run nosuch; [ $code = 2 ] && grep -q nosuch "$work/err" && run run --nosuch x --json; [ $code = 2 ] && json "o['error']['code']=='INPUT'"; }
not_there() { run run nosuch x --json; [ $code = 11 ] && json "o['error']['code']=='NOTFOUND'"; }
not_gguf() { head -c 1000 /dev/urandom >"$work/bad.gguf"; run info "$work/bad.gguf" --json; [ $code = 3 ] && json "o['error']['code']=='FORMAT'"; }
bad_mask() { MARU_CPU=nosuch "$maru" models >"$work/out" 2>"$work/err"; [ $? = 2 ] && grep -q nosuch "$work/err"; }
lists() { run models --json; [ $code = 0 ] && json "any(m['name']=='e5-small' and m['licence']=='MIT' and len(m['sha256'])==64 for m in o['catalogue']) and any(m['unmarked'] for m in o['catalogue'])"; }
ok help_fits_one_screen help_fits
ok every_command_has_help every_help
ok unknown_words_are_named unknown
ok missing_model_is_notfound not_there
ok damaged_model_is_format not_gguf
ok unknown_cpu_mask_is_named bad_mask
ok catalogue lists

mkdir -p "$work/docs"
printf '# 휴가 규정\n\n## 제1조(연차)\n연차는 해마다 15일이며 8일까지 다음 해로 이월할 수 있다.\n\n## 제2조(경조)\n조부모 사망 시 3일의 휴가를 준다.\n' >"$work/docs/leave.md"
printf 'Security rule\n\nPasswords have at least 14 characters. They are changed every 90 days.\n' >"$work/docs/security.txt"
printf '{"id":"n1","title":"공지","text":"구내식당은 11시 30분에 엽니다."}\n{"id":"n2","text":""}\n' >"$work/docs/notes.jsonl"
adds() { run add "$work/docs" --to c --json; [ $code = 0 ] && json "o['added']==4 and o['failed']==[] and o['chunks']>=3"; }
again() { run add "$work/docs" --to c --json; [ $code = 0 ] && json "o['added']==0 and o['updated']==0 and o['unchanged']==4"; }
changes() { sed -i 's/8일/9일/' "$work/docs/leave.md"; run add "$work/docs" --to c --json; [ $code = 0 ] && json "o['updated']==1 and o['unchanged']==3"; run search 9일 --in c --json; json "o['hits'][0]['document'].endswith('leave.md')"; }
follows() { mkdir -p "$work/f"; for i in 1 2 3 4 5 6; do echo "note $i" >"$work/f/$i.txt"; done; run sync "$work/f" --to f --json; [ $code = 0 ] && json "o['added']==6 and o['failed']==[] and o['seconds']>=0"; mv "$work/f/1.txt" "$work/f/one.txt"; rm "$work/f/2.txt"; run sync "$work/f" --to f --dry-run --json; json "o['dry_run'] and o['renamed']==1 and o['removed']==1 and len(o['plan'])==2"; run sync "$work/f" --to f --json; json "o['renamed']==1 and o['removed']==1 and o['unchanged']==4 and o['added']==0 and o['updated']==0"; rm "$work/f"/[3456].txt; run sync "$work/f" --to f --json; [ $code = 2 ] && json "'--force' in o['error']['message']" && run sync "$work/f" --to f --force --json; json "o['removed']==4"; }
lists_docs() { run docs c --json; [ $code = 0 ] && json "len(o['documents'])==4 and any(d['id']=='n1' and d['title']=='공지' for d in o['documents'])"; }
finds() { run search "연차 이월" --in c --mode bm25 --json; [ $code = 0 ] && json "o['hits'][0]['document'].endswith('leave.md') and o['hits'][0]['rank']==1 and 0<o['hits'][0]['coverage']<=1"; }
exact() { python3 - "$maru" "$work/out" <<'P'
import json, subprocess, sys
hits = json.load(open(sys.argv[2]))["hits"]
for h in hits:
    out = json.loads(subprocess.run([sys.argv[1], "text", h["document"], "--in", "c", "--range", f"{h['start']}:{h['end']}", "--json"], capture_output=True, check=True).stdout)
    assert out["text"] == h["text"], (out, h)
    plain = subprocess.run([sys.argv[1], "text", h["document"], "--in", "c", "--range", f"{h['start']}:{h['end']}"], capture_output=True, check=True).stdout.decode()
    assert plain == h["text"]
P
}
no_terms() { run search "???" --in c --json; [ $code = 0 ] && json "o['hits']==[]"; }
quotes() { run ask "조부모가 돌아가시면 휴가는 며칠인가요?" --in c --always-answer --json; [ $code = 0 ] && json "o['mode']=='extracted' and not o['refused'] and '3일' in o['answer'] and o['sentences'][0]['citations'][0]['quote'] in open('$work/docs/leave.md').read()"; }
refuses() { run ask "화성 탐사선의 연료는 무엇인가요?" --in c --json; [ $code = 0 ] && json "o['refused'] and o['sentences']==[]"; }
removes() { run remove "$work/docs/leave.md" --from c --json; [ $code = 0 ] && json "o['removed']==1" && ! grep -rqa '조부모 사망' "$MARU_HOME" && run search 조부모 --in c --json && json "all(not h['document'].endswith('leave.md') for h in o['hits'])"; }
no_collection() { run search x --in nosuch --json; [ $code = 11 ]; }
bad_range() { run text n1 --in c --range 5:99999; [ $code = 2 ] && grep -q 99999 "$work/err"; }
partly() { printf '{"id":"x1","text":"first"}\nnot json\n{"id":"x3","text":"third"}\n' >"$work/part.jsonl"; run add "$work/part.jsonl" --to p --json; [ $code = 0 ] && json "o['added']==2 and len(o['failed'])==1 and '2' in o['failed'][0]['reason']"; }
all_fail() { run add "$work/nosuch.md" --to p --json; [ $code != 0 ] && json "'error' in o"; }
eval_retrieval() { printf '{"id":"q1","query":"암호 길이 passwords","relevant":["%s"]}\n' "$work/docs/security.txt" >"$work/q.jsonl"; run eval retrieval "$work/q.jsonl" --in c --run "$work/run.txt" --json; [ $code = 0 ] && json "o['queries']==1 and o['ndcg@10']==1.0 and len(o['ndcg@10_ci'])==2" && grep -q '^q1 Q0 .* 1 .* maru$' "$work/run.txt"; }
nothing_made() { run add "$work/nosuch" --to fresh; [ $code = 11 ] && [ ! -e "$MARU_HOME/collections/fresh" ]; }
odd_names() { mkdir -p "$work/odd"; printf 'x\n' >"$work/odd/"$'a\nb\033[31m.txt'; printf 'PK\003\004' >"$work/odd/c.xlsx"; run add "$work/odd" --to odd; grep -q 'passed over 1' "$work/out" && run docs odd && [ $code = 0 ] && [ "$(wc -l <"$work/out")" = 1 ] && ! grep -q $'\033' "$work/out"; }
ok add_of_nothing_makes_no_collection nothing_made
ok names_cannot_steer_the_terminal odd_names
ok add_a_folder adds
ok add_again_is_a_no_op again
ok add_replaces_what_changed changes
ok sync_follows_a_folder follows
ok docs_lists lists_docs
ok search_finds finds
ok text_range_equals_hit exact
ok question_without_terms no_terms
ok ask_quotes_with_citation quotes
ok ask_refuses refuses
ok remove_leaves_no_text removes
ok missing_collection no_collection
ok bad_range_says_so bad_range
ok bad_lines_do_not_lose_good_ones partly
ok all_paths_failing_is_an_error all_fail
ok eval_retrieval eval_retrieval

smol=
for d in "${MARU_MODELS:-/nonexistent}" "$HOME/.cache/maru/models" "${XDG_DATA_HOME:-$HOME/.local/share}/maru/models"; do [ -z "$smol" ] && [ -e "$d/smollm2-135m.gguf" ] && smol=$d/smollm2-135m.gguf; done
if [ -n "$smol" ]; then
  runs() { run run "$smol" "The capital of France is" -n 5 --probs=3 --json; [ $code = 0 ] && json "len(o['ids'])==5 and o['finish']=='length' and len(o['steps'])==5 and len(o['steps'][0]['top'])==3 and 'Paris' in o['steps'][0]['text'] and abs(sum(t['p'] for t in o['steps'][0]['top']))<=1.0001"; }
  streams() { run run "$smol" "Once upon a time" -n 8; [ $code = 0 ] && [ "$(wc -c <"$work/out")" -gt 20 ]; }
  stdin_prompt() { echo -n "The capital of France is" | "$maru" run "$smol" -p - -n 2 --json >"$work/out" && json "o['prompt_ids']==[504,3575,282,4649,314]"; }
  chats() { run chat "$smol" --once "Say hello." -n 8 --json; [ $code = 0 ] && json "len(o['text'])>0 and 'timings' in o"; }
  informs() { run info "$smol" --json; [ $code = 0 ] && json "o['architecture']=='llama' and o['memory']['kv_per_token']>0 and o['memory']['scratch']>0 and o['vocab_size']==49152"; }
  tokens() { run tokenize "$smol" --text "" --json; [ $code = 0 ] && json "o['ids']==[]"; }
  too_long() { run run "$smol" "x" -n 100000 --json; [ $code = 2 ] && json "'100000' in o['error']['message']"; }
  nll() { head -c 1200 README.md >"$work/t.txt"; run eval nll "$smol" "$work/t.txt" --ctx 128 --json; [ $code = 0 ] && json "o['tokens']>100 and 0<o['nll']<12"; }
  same_seed() { run run "$smol" "Once" -n 12 --temp 1 --seed 7 --json; cp "$work/out" "$work/a"; run run "$smol" "Once" -n 12 --temp 1 --seed 7 --json; python3 -c "import json; assert json.load(open('$work/a'))['ids']==json.load(open('$work/out'))['ids']"; }
  stops() { python3 - "$maru" "$smol" "$work" <<'P'
import signal, subprocess, sys, time
p = subprocess.Popen([sys.argv[1], "run", sys.argv[2], "Once upon a time", "-n", "1500", "--ignore-end"], stdout=subprocess.PIPE)
assert p.stdout.read(30)
p.send_signal(signal.SIGINT)
assert p.wait(60) == 8, p.returncode
P
  }
  ok interrupted_run_says_so stops
  ok run_probs_json runs
  ok run_streams streams
  ok run_reads_standard_input stdin_prompt
  ok chat_once chats
  ok info informs
  ok tokenize_empty tokens
  ok context_is_never_cut_silently too_long
  ok eval_nll nll
  golden=tests/golden
  adapts() { # PEFT's own adapters; what 0 makes of one is the model alone
    run run "$smol" "The capital of France is" -n 4 --json; cp "$work/out" "$work/a"
    run run "$smol" "The capital of France is" -n 4 --adapter $golden/peft-rslora --adapter $golden/peft-prompt --json; [ $code = 0 ] && json "len(o['ids'])==4" || return 1
    run run "$smol" "The capital of France is" -n 4 --adapter $golden/peft-lora:0 --json; python3 -c "import json; assert json.load(open('$work/a'))['ids']==json.load(open('$work/out'))['ids']"
  }
  adapter_errors() {
    run run "$smol" x --adapter $golden/peft-prompt:0.5 --json; [ $code = 2 ] && json "'scale' in o['error']['message']" || return 1
    run run "$smol" x --adapter "$work/nowhere" --json; [ $code = 11 ] || return 1
    cp -r $golden/peft-lora "$work/dora"; sed -i 's/"use_dora": false/"use_dora": true/' "$work/dora/adapter_config.json"
    run run "$smol" x --adapter "$work/dora" --json; [ $code = 7 ] && json "'use_dora' in o['error']['message']"
  }
  merges() { # eight bits lose what sixteen keep
    run merge "$smol" $golden/peft-rslora:0.3 -o "$work/m.gguf" --json; [ $code = 2 ] && [ ! -e "$work/m.gguf" ] && json "o['kld']>0.01 and '--force' in o['error']['message']" || return 1
    run merge "$smol" $golden/peft-rslora:0.3 -o "$work/m.gguf" --type f16 --json; [ $code = 0 ] && json "0<=o['kld']<1e-4 and o['max_abs_logit']<1 and o['tensors']==14" || return 1
    run run "$smol" "The capital of France is" -n 6 --adapter $golden/peft-rslora:0.3 --json; cp "$work/out" "$work/a"
    run run "$work/m.gguf" "The capital of France is" -n 6 --json; python3 -c "import json; assert json.load(open('$work/a'))['ids']==json.load(open('$work/out'))['ids']"
  }
  ok same_seed_same_text same_seed
  ok run_with_adapters adapts
  ok adapters_that_cannot_work_are_refused adapter_errors
  ok merge_reports_and_refuses merges
else
  skip run_and_chat "smollm2-135m is not here"
fi
exit $failed

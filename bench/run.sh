#!/usr/bin/env bash
# make bench: kernels, indexes and models against this machine's limits. LLAMA_BENCH=path of llama.cpp's llama-bench also runs that
# peer in turn on the same files (its source: the PyPI source package llama-cpp-python). Models that are not here are left out.
set -u
cd "$(dirname "$0")/.."
build=${BUILD:-build} maru=${BUILD:-build}/maru rounds=${ROUNDS:-5}
models=${MARU_MODELS:-$HOME/.cache/maru/models}
echo "== kernels"; "$build"/bench/bench_quant; "$build"/bench/bench_body; "$build"/bench/bench_train
echo "== plans"; [ -x "$build"/bench/bench_plan ] && "$build"/bench/bench_plan
echo "== retrieval"; "$build"/bench/bench_retrieval
for m in smollm2-135m gemma3-270m qwen2.5-coder-0.5b qwen2.5-coder-1.5b; do
  file=$models/$m.gguf; [ -e "$file" ] || continue
  echo "== $m, prefill 256 and decode 32, 2 threads, $rounds rounds in turn"
  for _ in $(seq "$rounds"); do
    "$maru" bench "$file" -t 2 -p 256 -n 32 -r 1 | awk '/^(prefill|decode)/ {print "maru      " $1, $6, "tokens/s"}'
    [ -z "${LLAMA_BENCH:-}" ] || "$LLAMA_BENCH" -m "$file" -t 2 -p 256 -n 32 -r 1 2>/dev/null | awk -F'|' '/pp256|tg32/ {print "llama.cpp " ($7 ~ /pp/ ? "prefill" : "decode"), $8 + 0, "tokens/s"}'
  done | sort | awk '{k = $1 " " $2; v[k, ++n[k]] = $3} END {for (k in n) {m = int((n[k] + 1) / 2); c = 0; for (i = 1; i <= n[k]; i++) s[i] = v[k, i] + 0; for (i = 1; i <= n[k]; i++) for (j = i + 1; j <= n[k]; j++) if (s[j] < s[i]) {t = s[i]; s[i] = s[j]; s[j] = t} print "  median", k, s[m]}}' | sort
done

#!/usr/bin/env bash
# Quantization: a model in fp32, then in 8, 4 and 2 bits: how small, how fast, how much is lost; what importances of columns win back; and
# every type there is in one table and one picture. Usage: 08-quantization.sh [FOLDER where sweep.svg is left] (docs/EXAMPLES.md shows both)
. "$(dirname "$0")/common.sh"
need smollm2-135m
out=$(mktemp -d) folder=${1:-}
trap 'rm -rf "$out"' EXIT
head -c 6000 docs/MAP.md >"$out/text.txt"
"$maru" quantize smollm2-135m "$out/f32.gguf" --type f32 --requantize -q >/dev/null # the fetched file has 4 bits: expanded, it plays the original
for type in q8_0 q4_k_m q2_k; do
    "$maru" quantize "$out/f32.gguf" "$out/$type.gguf" --type "$type" --eval "$out/text.txt" -q
done
head -c 20000 docs/CLI.md >"$out/calibration.txt"
"$maru" quantize "$out/f32.gguf" "$out/q2_k.gguf" --type q2_k --collect "$out/calibration.txt" -o "$out/imatrix.gguf" --eval "$out/text.txt" -q
head -c 3000 docs/MAP.md >"$out/short.txt"
"$maru" quantize "$out/f32.gguf" "$out/sweep" --sweep --eval "$out/short.txt"
[ -z "$folder" ] || cp "$out/sweep/sweep.svg" "$folder"

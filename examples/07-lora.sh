#!/usr/bin/env bash
# LoRA and a soft prompt over the very 4-bit file that is served: the adapter stays a small file beside it, and the model answers with it.
. "$(dirname "$0")/common.sh"
need gemma3-270m
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
form=(--template '리뷰: {text}\n감정:' --labels '부정= bad,긍정= good')
train=samples/tune/shop_train.tsv test=samples/tune/shop_test.tsv
for way in lora:8 prompt:20; do
    "$maru" tune gemma3-270m "$train" --eval "$test" -o "$out/$way" --train "$way" --epochs 2 "${form[@]}" -q
done
"$maru" run gemma3-270m $'리뷰: 우산 손잡이가 하루 만에 떨어졌어요.\n감정:' -n 1 --probs=4 -q
"$maru" run gemma3-270m $'리뷰: 우산 손잡이가 하루 만에 떨어졌어요.\n감정:' -n 1 --probs=4 --adapter "$out/lora:8" -q

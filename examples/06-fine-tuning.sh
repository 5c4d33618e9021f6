#!/usr/bin/env bash
# Transfer learning in the guide's three steps, on reviews of a made-up shop: the model as it is; a layer on its features; its last
# two layers; all layers. Each prints what it trained, how long it took, and the accuracy on reviews whose phrases it never saw.
. "$(dirname "$0")/common.sh"
need gemma3-270m
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
form=(--template '리뷰: {text}\n감정:' --labels '부정= bad,긍정= good')
train=samples/tune/shop_train.tsv test=samples/tune/shop_test.tsv
"$maru" eval classify gemma3-270m "$test" "${form[@]}" -q
for way in features last:2 all; do
    "$maru" tune gemma3-270m "$train" --eval "$test" -o "$out/$way" --train "$way" --features concat4 "${form[@]}" -q
done

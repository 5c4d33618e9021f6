#!/usr/bin/env bash
# A language model gives the probability of the next word: the table after "오늘 점심은", by Gemma 3 270M.
. "$(dirname "$0")/common.sh"
need gemma3-270m
"$maru" run gemma3-270m "오늘 점심은 " -n 1 --probs=10
echo
echo "the likeliest, one after another:"
"$maru" run gemma3-270m "오늘 점심은 " -n 12

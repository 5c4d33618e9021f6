#!/usr/bin/env bash
# Few-shot classification: three labelled film reviews, then one without a label; the table shows what the model thinks of each label.
. "$(dirname "$0")/common.sh"
need qwen2.5-coder-1.5b
prompt=$'리뷰: 배우들의 연기가 훌륭했고 마지막까지 눈을 뗄 수 없었습니다.\n감정: 긍정적\n\n리뷰: 줄거리가 지루하고 시간이 아까웠습니다.\n감정: 부정적\n\n리뷰: 평범한 영화였고 특별히 기억에 남는 장면은 없었습니다.\n감정: 중립\n\n리뷰: 영화 촬영은 놀라웠지만 이야기의 깊이가 부족했습니다.\n감정:'
"$maru" run qwen2.5-coder-1.5b "$prompt" -n 3 --stop $'\n'
echo
"$maru" run qwen2.5-coder-1.5b "$prompt" -n 1 --probs=6

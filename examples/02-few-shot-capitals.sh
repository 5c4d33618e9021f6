#!/usr/bin/env bash
# Few-shot: two examples in the prompt are the whole training.
. "$(dirname "$0")/common.sh"
need qwen2.5-coder-1.5b
"$maru" run qwen2.5-coder-1.5b $'질문: 프랑스의 수도는?\n답: 파리\n\n질문: 이탈리아의 수도는?\n답: 로마\n\n질문: 일본의 수도는?\n답:' -n 8 --stop $'\n'
"$maru" run qwen2.5-coder-1.5b $'Capital of France: Paris\nCapital of Italy: Rome\nCapital of Japan:' -n 8 --stop $'\n'

#!/usr/bin/env bash
# Question answering over documents (RAG): load, split, embed, store, then ask. Each sentence carries file, page or line, and characters.
. "$(dirname "$0")/common.sh"
need e5-small
need qwen2.5-coder-1.5b
"$maru" add samples/docs --to demo -e e5-small
"$maru" search "연차 이월" --in demo -k 2
"$maru" ask "업무용 노트북을 택시에 두고 내렸습니다. 언제까지 신고해야 하나요?" --in demo -m qwen2.5-coder-1.5b
"$maru" ask "How many days before leaving must a department head give notice?" --in demo
"$maru" ask "회사 주차장에 자리가 몇 개 있나요?" --in demo -m qwen2.5-coder-1.5b

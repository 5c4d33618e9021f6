#!/usr/bin/env bash
# A chat in the model's own template. Without --once it is a conversation: /help inside.
. "$(dirname "$0")/common.sh"
need qwen2.5-coder-1.5b
"$maru" chat qwen2.5-coder-1.5b --system "You answer in one short sentence." --once "What is a citation good for?"

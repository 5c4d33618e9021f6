#!/usr/bin/env bash
# A file may include its own folder's headers and the door X/X.h of lower floors; equals do not see each other (docs/MAP.md).
cd "$(dirname "$0")/.." || exit 1
grep -rn '^ *# *include "' src | awk -F'"' '
BEGIN { split("base 0 tensor 1 text 1 model 2 engine 3 eval 4 rag 5 prompt 6 tune 6 quant 6 compare 7 serve 8 api 9 cli 9", a, " ")
        for (i = 1; i in a; i += 2) floor[a[i]] = a[i + 1] }
{ split($1, f, "/"); n = split($2, t, "/"); from = f[2]; to = t[1]
  if (n < 2 || to == from || !(to in floor)) next
  if (floor[to] >= floor[from]) { print "up or sideways: " $0; bad = 1 }
  if ($2 != to "/" to ".h")     { print "not the door:   " $0; bad = 1 } }
END { exit bad }' || exit 1
for door in src/*/*.h; do
  d=$(dirname "$door"); [ "$(basename "$door")" = "$(basename "$d").h" ] || continue
  [ "$(wc -l <"$door")" -le 250 ] || { echo "door over 250 lines: $door"; exit 1; }
done

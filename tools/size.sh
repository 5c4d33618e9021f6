#!/usr/bin/env bash
# Lines per folder; files over 1,000 lines and functions over 70 (generated tables excepted). Exit 1 when one is over.
cd "$(dirname "$0")/.." || exit 1
for d in src/* src/*/*/ tests bench tools; do [ -d "$d" ] && printf '%6d %s\n' "$(find "$d" -name '*.[ch]' -o -name '*.sh' | xargs -r cat | wc -l)" "$d"; done
over=$(git ls-files 'src/*.[ch]' 'tests/*.[ch]' 'bench/*.c' | grep -v _table | xargs -r wc -l | awk '$2 != "total" && $1 > 1000')
[ -n "$over" ] && printf 'files over 1,000 lines:\n%s\n' "$over"
git ls-files 'src/*.c' 'src/*.h' | grep -v _table | xargs -r awk '
FNR == 1 { inside = 0 }
/^[a-z].*[^;]$/ && /\(/ { name = $0; start = FNR }
/^\{/ { inside = 1; if (FNR - start > 6) { name = FILENAME; start = FNR } }
/^\}/ && inside { n = FNR - start + 1; if (n > 70) { long = 1; printf "function of %d lines: %s:%d %s\n", n, FILENAME, start, substr(name, 1, 80) } inside = 0 }
END { exit long }' && [ -z "$over" ]

#!/usr/bin/env bash
# include/maru.h alone is C99 and C++17, every door alone is C11, with each compiler that is here; a C program and a C++ program that
# know nothing but the header link against the library and run; the library ends no process but the children it makes.
cd "$(dirname "$0")/../.." || exit 1
lib=${BUILD:-build}/libmaru.a
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
failed=0
try() { # NAME COMMAND...
  local name=$1; shift
  if "$@" >"$tmp/out" 2>&1; then echo "[       OK ] $name"; else echo "[  FAILED  ] $name"; tail -15 "$tmp/out"; failed=1; fi
}
skip() { echo "[  SKIPPED ] $1"; }

echo '#include "maru.h"' >"$tmp/c.c"
cp "$tmp/c.c" "$tmp/cc.cpp"
for cc in gcc clang; do
  if ! command -v $cc >/dev/null; then skip "header_c99_$cc"; continue; fi
  try "header_c99_$cc" $cc -std=c99 -pedantic-errors -Wall -Wextra -Werror -Wshadow -fsyntax-only -Iinclude "$tmp/c.c"
  for door in src/*/; do
    d=$(basename "$door"); h=src/$d/$d.h
    [ -f "$h" ] || continue
    [ "$d" = api ] && continue
    echo "#include \"$d/$d.h\"" >"$tmp/door.c"
    try "door_${d}_$cc" $cc -std=c11 -Wall -Wextra -Werror -fsyntax-only -Isrc "$tmp/door.c"
  done
done
for cxx in g++ clang++; do
  if ! command -v $cxx >/dev/null; then skip "header_cpp17_$cxx"; continue; fi
  try "header_cpp17_$cxx" $cxx -std=c++17 -pedantic-errors -Wall -Wextra -Werror -Wshadow -fsyntax-only -Iinclude "$tmp/cc.cpp"
done
lines() { [ "$(wc -l <include/maru.h)" -le 200 ]; }
try header_fits_200_lines lines
prefixed() { # every name that the header makes begins with maru_ or MARU_
  ! gcc -std=c99 -fsyntax-only -aux-info "$tmp/aux" -Iinclude "$tmp/c.c" || ! grep 'maru.h' "$tmp/aux" | sed 's/.*\*\/ //' | grep -v 'maru_'
}
try header_names_are_prefixed prefixed

if [ ! -f "$lib" ]; then skip program_links; exit $failed; fi
san=$(nm "$lib" 2>/dev/null | grep -q __asan_ && echo -fsanitize=address,undefined; nm "$lib" 2>/dev/null | grep -q __tsan_ && echo -fsanitize=thread)
libs="$(make -s libs) -lm -pthread"
cat >"$tmp/program.c" <<'PROGRAM'
#include "maru.h"
#include <stdio.h>
#include <string.h>
int main(void)
{
    maru_error       error;
    maru_engine     *engine = NULL;
    maru_collection *notes = NULL;
    const char      *paths[1];
    maru_hits       *hits = NULL;
    maru_added       added;
    int              ok = !strcmp(maru_version(), MARU_VERSION);
    maru_set_log(0);
    ok = ok && maru_engine_open(&engine, "no model of this name", NULL, &error) == MARU_NOTFOUND && !engine && *error.message;
    ok = ok && maru_collection_open(&notes, "notes", 1, NULL, &error) == MARU_OK;
    paths[0] = "note.txt";
    ok = ok && maru_collection_add(notes, paths, 1, &added, &error) == MARU_OK && added.added == 1;
    ok = ok && maru_collection_search(notes, "kimchi", 3, &hits, &error) == MARU_OK && hits->n == 1;
    if (ok) printf("%s [%u,%u)\n", hits->hit[0].document, (unsigned)hits->hit[0].start, (unsigned)hits->hit[0].end);
    else printf("%s: %s\n", maru_error_name(error.code), error.message);
    maru_hits_free(hits);
    maru_collection_close(notes);
    return ok ? 0 : 1;
}
PROGRAM
cp "$tmp/program.c" "$tmp/program.cpp"
echo 'Kimchi stands in the cold room.' >"$tmp/note.txt"
run() { (cd "$tmp" && MARU_HOME="$tmp/home-$1" ./"$1"); }
try program_links_c gcc -std=c99 -pedantic-errors -Wall -Wextra -Werror $san -Iinclude -o "$tmp/program_c" "$tmp/program.c" "$lib" $libs
try program_runs_c run program_c
if command -v g++ >/dev/null; then
  try program_links_cpp g++ -std=c++17 -Wall -Wextra -Werror $san -Iinclude -o "$tmp/program_cpp" "$tmp/program.cpp" "$lib" $libs
  try program_runs_cpp run program_cpp
fi
quiet() { ! nm -A --undefined-only "$lib" 2>/dev/null | grep -v ':proc.o:' | grep -E ' U (exit|_exit|abort|__assert_fail)$'; }
try library_never_exits quiet # but for the child processes of base/proc.c
exit $failed

#!/usr/bin/env bash
# Runs every test program (cmocka) and test script under $BUILD; prints what failed, and `N passed, N failed` as the last line.
cd "$(dirname "$0")/.." || exit 1
export BUILD=${BUILD:-build}
log=$BUILD/tests.log; : >"$log"
passed=0; failed=0; skipped=0
count() { # NAME, output file, exit status
  local p f s
  p=$(grep -c '^\[       OK \]' "$2"); s=$(grep -c '^\[  SKIPPED \]' "$2"); f=$(grep -c '^\[  FAILED  \] [^0-9]' "$2")
  p=$((p - 0)); [ "$3" != 0 ] && [ "$f" = 0 ] && f=1
  passed=$((passed + p)); failed=$((failed + f)); skipped=$((skipped + s))
  [ "$3" = 0 ] || { echo "--- $1 (exit $3)"; tail -25 "$2"; }
}
for t in $(find "$BUILD/tests" -type f -name 'test_*' -perm -u+x ! -name '*.o' ! -name '*.d' | sort); do
  out=$BUILD/one.log; start=$(date +%s)
  timeout "${TEST_SECONDS:-600}" "$t" >"$out" 2>&1; code=$?
  cat "$out" >>"$log"; count "$t" "$out" $code
  printf '%4ss %s\n' $(($(date +%s) - start)) "${t#$BUILD/tests/}"
done
for t in $(find "$BUILD/fuzz" -type f -name 'fuzz_*' -perm -u+x ! -name '*.o' ! -name '*.d' 2>/dev/null | sort); do
  start=$(date +%s)
  timeout "${TEST_SECONDS:-600}" "$t" -n "${FUZZ_N:-10000}" -seconds "${FUZZ_SECONDS:-10}" >"$BUILD/one.log" 2>&1; code=$?
  cat "$BUILD/one.log" >>"$log"; count "$t" "$BUILD/one.log" $code
  printf '%4ss %s\n' $(($(date +%s) - start)) "${t#$BUILD/}"
done
for t in $(find tests -name 'test_*.sh' | sort); do
  start=$(date +%s)
  timeout "${TEST_SECONDS:-900}" bash "$t" >"$BUILD/one.log" 2>&1; code=$?
  cat "$BUILD/one.log" >>"$log"
  count "$t" "$BUILD/one.log" $code
  printf '%4ss %s\n' $(($(date +%s) - start)) "$t"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]

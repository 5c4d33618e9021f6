#!/usr/bin/env bash
# Runs every built fuzzer of $BUILD/fuzz for longer than `make check` does: FUZZ_N mutations each (default 200000), a new seed each
# day (FUZZ_SEED), at most FUZZ_SECONDS. Best with SAN=address,undefined. Inputs that fail are kept in $BUILD/crash-*.
cd "$(dirname "$0")/.." || exit 1
export BUILD=${BUILD:-build}
seed=${FUZZ_SEED:-$(date +%Y%m%d)}; passed=0; failed=0
for f in "$BUILD"/fuzz/fuzz_*; do
  [ -x "$f" ] && [ -f "$f" ] || continue
  if "$f" -n "${FUZZ_N:-200000}" -seed "$seed" -seconds "${FUZZ_SECONDS:-600}" -fail; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
[ $((passed + failed)) -gt 0 ] || { echo "no fuzzers in $BUILD/fuzz: make fuzz builds and runs them" >&2; exit 1; }
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]

#!/bin/sh
# Tests on an ASan and UBSan build of the extensions; run by `make asan`, needs gcc and .venv.
#
# A copy of the tree is built in .asan, so the normal build stays as it is. Python itself is not sanitised: the runtime
# is preloaded, and PYTHONMALLOC=malloc gives every bytes object a heap block of its own, whose ends ASan watches.
# Reports go to files, because those of a worker process would end up in a gateway's log; any file is a failure.
#
#   tools/asan.sh [pytest arguments]     other tests than the usual ones
set -eu

cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
copy=$PWD/.asan
reports=$copy/report

mkdir -p "$copy"
rm -f "$reports".*
# Only what changed is copied, so that a second run compiles only that.
for file in $(git ls-files -co --exclude-standard kairos tests bench examples setup.py pyproject.toml README.md LICENSE); do
    [ -f "$file" ] || continue
    cmp -s "$file" "$copy/$file" || { mkdir -p "$copy/$(dirname "$file")"; cp "$file" "$copy/$file"; }
done

cd "$copy"
# setup.py compiles everything anew when sanitizing: not again while nothing changed.
if [ ! -e .built ] || [ -n "$(find kairos setup.py \( -name '*.pyx' -o -name '*.pxd' -o -name setup.py \) -newer .built)" ]; then
    KAIROS_SANITIZE=1 KAIROS_JOBS=2 "$python" -W ignore setup.py -q build_ext --inplace --parallel 2
    touch .built
fi

# Leaks are left out: the interpreter frees little at exit. libstdc++ is preloaded for ASan to find __cxa_throw.
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so.6)"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=0:log_path=$reports"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1:log_path=$reports"
export PYTHONMALLOC=malloc PYTHONPATH="$copy" PYTHONDONTWRITEBYTECODE=1

[ $# -gt 0 ] || set -- -n 2 tests/speedups tests/fuzz tests/telemetry tests/robust \
    tests/proxy/test_framing.py tests/proxy/test_interfaces.py tests/proxy/test_pump.py tests/proxy/test_websocket.py \
    tests/proxy/test_policy.py tests/proxy/test_retry.py tests/proxy/test_hedging.py tests/proxy/test_queue.py \
    tests/proxy/test_pipes.py tests/proxy/test_detached.py tests/proxy/test_edits.py tests/proxy/test_cors.py \
    tests/proxy/test_access.py tests/proxy/test_ratelimit.py tests/proxy/test_compress.py tests/proxy/test_cache.py \
    tests/proxy/test_cache_conformance.py tests/proxy/test_security_headers.py tests/proxy/test_tls.py tests/proxy/test_sockets.py
status=0
"$python" -m pytest -q -p no:cacheprovider "$@" || status=$?
unset LD_PRELOAD
for report in "$reports".*; do
    [ -e "$report" ] || break
    status=1
    cat "$report"
done
exit $status

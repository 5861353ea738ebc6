#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET...]: runs the fuzzers one after the other, each for so many seconds.
#
# What they learn stays in fuzz/found between runs; what they find lies in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
seconds=$1
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
cp ../Cargo.lock Cargo.lock
for target in "${targets[@]}"; do
  case $target in
    config_pbtxt) dictionary=pbtxt ;;
    *) dictionary=json ;;
  esac
  mkdir -p "found/$target"
  # A tensor of a few bytes that makes a reader ask for 512 MiB is a finding, and so is a second of work.
  cargo +nightly fuzz run "$target" "found/$target" "corpus/$target" -- -jobs=0 -max_total_time="$seconds" \
    -max_len=4096 -timeout=10 -malloc_limit_mb=512 -dict="dictionaries/$dictionary.dict" -print_final_stats=1
done

#!/bin/sh
# Installs the Debian packages that are missing, when root; else names them.
#
#   tools/debian_packages.sh build|test|fuzz [python]

set -eu
python=${2:-python3}
missing=""

need() { # need PACKAGE COMMAND...: PACKAGE is missing if COMMAND fails
  package=$1
  shift
  "$@" >/dev/null 2>&1 || missing="$missing $package"
}

python_h='import os, sys, sysconfig as s
sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))'

need g++ g++ --version
need python3-venv "$python" -c 'import ensurepip, venv'
need python3-dev "$python" -c "$python_h"
if [ "$1" = test ]; then
  need libgtest-dev sh -c 'echo "#include <gtest/gtest.h>" |
    g++ -x c++ - -lgtest_main -lgtest -pthread -o /dev/null'
fi
if [ "$1" = fuzz ]; then
  need clang-14 clang++-14 --version
  need libclang-rt-14-dev sh -c 'echo "extern \"C\" int LLVMFuzzerTestOneInput(
    const unsigned char*, unsigned long) { return 0; }" |
    clang++-14 -x c++ - -fsanitize=fuzzer,address -o /dev/null'
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing$missing"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends $missing
else
  echo "torch-mesh: these Debian packages are missing:$missing" >&2
  echo "Hint: sudo apt-get install$missing" >&2
  exit 1
fi

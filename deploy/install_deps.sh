#!/usr/bin/env bash
# Installs the distribution's packages that Mindforge needs (Debian 12, 13, Ubuntu 24.04), and
# nothing that is there already. Uses sudo when not root.
#
#   deploy/install_deps.sh build      to build and to run the quickstart
#   deploy/install_deps.sh test       also what the tests use
#   deploy/install_deps.sh run        only the shared libraries that built programs need
#   deploy/install_deps.sh python     only Python and its venv, for an image that installs wheels
set -euo pipefail
what=${1:-build}

build=(
  g++ cmake ninja-build ccache mold pkg-config git ca-certificates python3 python3-pip python3-venv
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev
  prometheus-cpp-dev libsqlite3-dev libcli11-dev libyaml-cpp-dev nlohmann-json3-dev
  libxxhash-dev libzstd-dev zlib1g-dev libgloo-dev libgtest-dev libgmock-dev fortunes
  fortunes-zh
)
tests=(clang-format prometheus procps)
# Found by name, since their version is part of it.
run=('libgrpc++1*' 'libprotobuf[0-9][0-9]*' 'libabsl2*' 'libprometheus-cpp-core*' 'libprometheus-cpp-pull*'
     libsqlite3-0 'libyaml-cpp0*' libxxhash0 libzstd1 zlib1g
     ca-certificates)

packages=()
case $what in
  build) packages=("${build[@]}") ;;
  test) packages=("${build[@]}" "${tests[@]}") ;;
  run) packages=("${run[@]}") ;;
  python) packages=(python3 python3-venv ca-certificates) ;;
  *) echo "install_deps.sh: unknown set '$what'; one of build, test, run, python" >&2; exit 2 ;;
esac

if ! command -v apt-get >/dev/null; then
  echo "install_deps.sh: this system has no apt-get. Install by hand what stands in ${BASH_SOURCE[0]}" \
       "(names are Debian's), then run this again with MINDFORGE_SKIP_APT=1." >&2
  [[ ${MINDFORGE_SKIP_APT:-0} == 1 ]] && exit 0
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  if ! dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
    missing+=("$package")
  fi
done
# A compiler or pip that did not come from a package serves as well.
keep=()
for package in ${missing[@]+"${missing[@]}"}; do
  case $package in
    python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
    python3-venv) python3 -c 'import venv, ensurepip' >/dev/null 2>&1 && continue ;;
    cmake | git | g++ | pkg-config | mold | ccache) command -v "$package" >/dev/null && continue ;;
    ninja-build) command -v ninja >/dev/null && continue ;;
  esac
  keep+=("$package")
done

if ((${#keep[@]} > 0)); then
  sudo=()
  if [[ $(id -u) != 0 ]]; then
    if ! command -v sudo >/dev/null; then
      echo "install_deps.sh: missing packages (${keep[*]}), and this is neither root nor is there" \
           "sudo. Ask an administrator to install them." >&2
      exit 1
    fi
    sudo=(sudo)
  fi
  echo "Installing ${#keep[@]} packages: ${keep[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  if ! { "${sudo[@]}" apt-get update && "${sudo[@]}" apt-get install -y --no-install-recommends \
         "${keep[@]}"; } >"$log" 2>&1; then
    tail -20 "$log" >&2
    echo "install_deps.sh: apt-get failed, see above and $log" >&2
    exit 1
  fi
  rm -f "$log"
fi

#!/usr/bin/env bash
# Installs the Debian packages that maru is built from, if any is missing. Root, or sudo.
set -euo pipefail
packages="gcc make pkg-config libsqlite3-dev libstemmer-dev libjansson-dev libutf8proc-dev libpcre2-dev libmd4c-dev libxml2-dev libzip-dev
libsodium-dev libseccomp-dev libedit-dev libcmocka-dev poppler-utils poppler-data python3 python3-pip zstd"
missing=
for p in $packages; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"; done
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null || { echo "deps: this is not Debian or its kin; install the equivalents of:$missing" >&2; exit 1; }
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null

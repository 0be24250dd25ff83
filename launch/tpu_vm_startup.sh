#!/usr/bin/env bash
# What every host of a TPU slice runs, as root, each time it boots: see tpu_vm.sh.
set -euo pipefail

metadata() {
    curl --fail --silent --header 'Metadata-Flavor: Google' \
        "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1/instance/attributes/$1"
}

home="${BERT_JAX_HOME:-/opt/bert-jax}"
shared="${BERT_JAX_SHARED:-/mnt/shared}"
mkdir -p "$shared"
if ! mountpoint --quiet "$shared"; then
    apt-get update --quiet
    apt-get install --quiet --yes nfs-common git python3-venv
    mount -t nfs "$(metadata bert-jax-nfs)" "$shared"
fi
[ -d "$home" ] || git clone --depth 1 "$(metadata bert-jax-repository)" "$home"
cd "$home"
version="$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
[ -d .venv ] || python3 -m venv .venv
.venv/bin/pip install --quiet --constraint "constraints/python$version.txt" '.[tpu]'

# A unit of its own outlives this script; restart.sh starts the same command again after exit code 75.
words="$(metadata bert-jax-words)"
systemd-run --unit bert-jax --working-directory "$home" --property KillMode=mixed --property TimeoutStopSec=300 \
    bash -c "PATH='$home/.venv/bin:$PATH' exec launch/restart.sh bert-jax $words"

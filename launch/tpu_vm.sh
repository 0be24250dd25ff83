#!/usr/bin/env bash
# A TPU VM or a pod slice of them as a queued resource, whose hosts install bert-jax, train and restart by themselves.
#
#     NAME=base ZONE=us-west4-a TYPE=v5litepod-256 RUNTIME=v2-alpha-tpuv5-lite SPOT=1 \
#     REPOSITORY=https://github.com/you/bert-jax NFS=10.0.0.2:/vol1 \
#     launch/tpu_vm.sh create pretrain --config configs/bert_base.py --config.data.corpus=/mnt/shared/corpus \
#         --workdir /mnt/shared/runs/base
#     launch/tpu_vm.sh watch ...     # the same, and create it again whenever it has been preempted
#     NAME=base ZONE=us-west4-a launch/tpu_vm.sh status | logs | delete
#
# The corpus and the workdir must lie on a file system that all hosts see: NFS is mounted at /mnt/shared.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
: "${NAME:?a name for the resource}" "${ZONE:?a zone}"
action="${1:?create, watch, status, logs or delete}"
shift

create() {
    : "${TYPE:?such as v5litepod-256}" "${RUNTIME:?such as v2-alpha-tpuv5-lite}" "${REPOSITORY:?to clone}" "${NFS:?host:/path}"
    local folder options=()
    folder="$(mktemp -d)"
    printf '%s\n' "$REPOSITORY" >"$folder/repository"
    printf '%s\n' "$NFS" >"$folder/nfs"
    printf '%q ' "$@" >"$folder/words"
    [ -z "${SPOT:-}" ] || options+=(--spot)
    [ -z "${RESERVED:-}" ] || options+=(--reserved)
    gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
        --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${options[@]}" \
        --metadata-from-file="startup-script=$here/tpu_vm_startup.sh,bert-jax-repository=$folder/repository,bert-jax-nfs=$folder/nfs,bert-jax-words=$folder/words"
    rm -r "$folder"
}

state() {
    gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2>/dev/null || echo NONE
}

delete() {
    gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
}

case "$action" in
create) create "$@" ;;
watch)
    while true; do
        case "$(state)" in
        NONE) create "$@" ;;
        SUSPENDED | FAILED) delete && create "$@" ;; # preempted: the run goes on from its newest checkpoint
        esac
        sleep "${WATCH_SECONDS:-60}"
    done
    ;;
status) state ;;
logs)
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="${WORKER:-0}" \
        --command='sudo journalctl --unit bert-jax --follow --lines 200'
    ;;
delete) delete ;;
*)
    echo "tpu_vm.sh: $action is not create, watch, status, logs or delete" >&2
    exit 2
    ;;
esac

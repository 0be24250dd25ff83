#!/usr/bin/env bash
# A TPU VM or a pod slice of them as a queued resource, whose hosts install bert-jax, train and restart by themselves.
#
#     NAME=base ZONE=us-west4-a TYPE=v5litepod-256 RUNTIME=v2-alpha-tpuv5-lite SPOT=1 \
#     REPOSITORY=https://github.com/you/bert-jax NFS=10.0.0.2:/vol1 \
#     launch/tpu_vm.sh create pretrain --config configs/bert_base.py --config.data.corpus=/mnt/shared/corpus \
#         --workdir /mnt/shared/runs/base
#     launch/tpu_vm.sh watch ...     # the same, and create it again whenever it has been preempted; never deletes it
#     NAME=base ZONE=us-west4-a launch/tpu_vm.sh status | logs | delete
#
# A finished run leaves the resource as it is, and it is paid for until `delete`.
# The corpus and the workdir must lie on a file system that all hosts see: NFS is mounted at /mnt/shared.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
: "${NAME:?a name for the resource}" "${ZONE:?a zone}"
action="${1:?create, watch, status, logs or delete}"
shift

create() {
    : "${TYPE:?such as v5litepod-256}" "${RUNTIME:?such as v2-alpha-tpuv5-lite}" "${REPOSITORY:?to clone}" "${NFS:?host:/path}"
    local folder options=() code=0
    folder="$(mktemp -d)"
    printf '%s\n' "$REPOSITORY" >"$folder/repository"
    printf '%s\n' "$NFS" >"$folder/nfs"
    printf '%q ' "$@" >"$folder/words"
    [ -z "${SPOT:-}" ] || options+=(--spot)
    [ -z "${RESERVED:-}" ] || options+=(--reserved)
    gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
        --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${options[@]}" \
        --metadata-from-file="startup-script=$here/tpu_vm_startup.sh,bert-jax-repository=$folder/repository,bert-jax-nfs=$folder/nfs,bert-jax-words=$folder/words" || code=$?
    rm -r "$folder"
    return "$code"
}

# NONE where there is no such resource; fails where nobody knows.
state() {
    local errors code=0
    errors="$(mktemp)"
    gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" --format='value(state.state)' 2>"$errors" || code=$?
    if [ "$code" -ne 0 ] && grep --quiet NOT_FOUND "$errors"; then
        echo NONE
        code=0
    else
        cat "$errors" >&2
    fi
    rm "$errors"
    return "$code"
}

delete() {
    gcloud compute tpus queued-resources delete "$NAME" --zone="$ZONE" --force --quiet
}

case "$action" in
create) create "$@" ;;
watch)
    while true; do
        # What fails, for want of chips or of an answer, is tried again at the next look.
        case "$(state || echo UNKNOWN)" in
        NONE) create "$@" || echo "tpu_vm.sh: $NAME could not be created; trying again" >&2 ;;
        SUSPENDED | FAILED) # preempted: the run goes on from its newest checkpoint
            { delete && create "$@"; } || echo "tpu_vm.sh: $NAME could not be created again; trying again" >&2
            ;;
        UNKNOWN) echo "tpu_vm.sh: no answer about $NAME; asking again" >&2 ;;
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

#!/usr/bin/env bash
# Runs a command until it is done:
#
#     launch/restart.sh bert-jax pretrain --config configs/bert_base.py --config.data.corpus=CORPUS --workdir RUN
#
# 75 (saved, run the same command again) and deaths by a signal start it again after RESTART_SECONDS (10). Every other
# code ends it with that code: 0 is done, 2 and 3 need a person. SIGTERM and SIGINT go on to the command and end the
# restarts. A command that lasts less than 60 seconds MAX_QUICK times (5) in a row is given up.
set -u

child=0
stopping=0
forward() {
    stopping=1
    [ "$child" -eq 0 ] || kill -TERM "$child" 2>/dev/null
}
trap forward TERM INT

quick=0
while true; do
    began=$SECONDS
    "$@" &
    child=$!
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do # a trap ended the wait, not the command
        wait "$child"
        code=$?
    done
    child=0
    if [ "$stopping" -eq 1 ] || { [ "$code" -ne 75 ] && [ "$code" -lt 128 ]; }; then
        exit "$code"
    fi
    if [ $((SECONDS - began)) -lt 60 ]; then quick=$((quick + 1)); else quick=0; fi
    if [ "$quick" -ge "${MAX_QUICK:-5}" ]; then
        echo "restart.sh: given up after $quick quick ends, the last with code $code" >&2
        exit "$code"
    fi
    echo "restart.sh: ended with code $code, starting again" >&2
    sleep "${RESTART_SECONDS:-10}" &
    wait $!
    [ "$stopping" -eq 0 ] || exit "$code"
done

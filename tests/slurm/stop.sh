#!/usr/bin/env bash
# Stops the Slurm that start.sh started in FOLDER, with its jobs: tests/slurm/stop.sh FOLDER
set -uo pipefail
[ $# = 1 ] || { echo "error: give the folder of tests/slurm/start.sh" >&2; exit 1; }
export SLURM_CONF=$1/slurm.conf
scancel --user="$(id -un)" 2>/dev/null
for _ in $(seq 20); do
    [ -z "$(squeue --noheader 2>/dev/null)" ] && break
    sleep 0.5
done
for daemon in slurmd slurmctld munged; do
    [ -s "$1/$daemon.pid" ] || continue
    pid=$(cat "$1/$daemon.pid")
    kill "$pid" 2>/dev/null
    for _ in $(seq 20); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.5
    done
done
exit 0

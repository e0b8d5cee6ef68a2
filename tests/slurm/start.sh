#!/usr/bin/env bash
# Starts a Slurm of one node, this machine, without systemd and for the user who asks:
#
#     tests/slurm/start.sh FOLDER       # starts what is not running yet, and waits until it is idle
#     export SLURM_CONF=FOLDER/slurm.conf
#     tests/slurm/stop.sh FOLDER
#
# All its files are in FOLDER. Jobs are those of this user only.
set -euo pipefail

fail() { echo "error: $1" >&2; exit 1; }

[ $# = 1 ] || fail "give the folder for Slurm's files: tests/slurm/start.sh FOLDER"
PATH=$PATH:/usr/sbin:/sbin
for program in munged slurmctld slurmd sbatch srun; do
    command -v $program >/dev/null || fail "no $program here: apt-get install slurm-wlm munge"
done
mkdir -p "$1"
folder=$(cd "$1" && pwd)
mkdir -p "$folder/state" "$folder/spool"
export SLURM_CONF=$folder/slurm.conf

running() { [ -s "$folder/$1.pid" ] && kill -0 "$(cat "$folder/$1.pid")" 2>/dev/null; }

if [ ! -e "$folder/munge.key" ]; then
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
fi
if [ ! -e "$SLURM_CONF" ]; then
    port=$((31000 + RANDOM % 500 * 2))
    memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    # With config_overrides, tasks run side by side on fewer cores than they ask for.
    cat >"$SLURM_CONF" <<END
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$(($(nproc) < 4 ? 4 : $(nproc))) RealMemory=$memory
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
fi

running munged || munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munge.seed" 2>"$folder/start.log" ||
    fail "munged does not start: $(tail -n 1 "$folder/start.log")"
running slurmctld || slurmctld >"$folder/start.log" 2>&1 ||
    fail "slurmctld does not start: $(tail -n 1 "$folder/start.log")"
running slurmd || slurmd -N localhost >"$folder/start.log" 2>&1 ||
    fail "slurmd does not start: $(tail -n 1 "$folder/start.log")"

for _ in $(seq 60); do
    state=$(sinfo --noheader --format=%T 2>/dev/null || true)
    case $state in
        idle | mixed | allocated) exit 0 ;;
        down* | drain*) scontrol update NodeName=localhost State=RESUME 2>/dev/null || true ;;
    esac
    sleep 0.5
done
fail "the node is '${state:-unknown}' after 30 seconds: see $folder/slurmctld.log, slurmd.log"

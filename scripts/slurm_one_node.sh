#!/bin/sh
# A Slurm of one node, from the distribution's packages, for as long as a command runs: for trying `--runner slurm`.
#
#   sudo apt-get install --no-install-recommends slurm-wlm munge
#   scripts/slurm_one_node.sh emotion-circuits study smoke --runner slurm --shards 2 --runner-options cpus_per_task=1
#
# Everything (key, configuration, state, logs) lies in a folder of its own, which SLURM_ONE_NODE names (default: a new
# one in the temporary folder, which is removed), and nothing of the machine's own Slurm is read or changed. Needs no
# root. The daemons end with the command, whose exit code is the script's.
set -eu

[ $# -gt 0 ] || { echo "usage: $0 COMMAND…" >&2; exit 2; }
PATH="$PATH:/usr/sbin"
for program in munged slurmctld slurmd sinfo; do
    command -v "$program" > /dev/null || {
        echo "$program is missing: apt-get install --no-install-recommends slurm-wlm munge" >&2
        exit 2
    }
done

made=
[ -n "${SLURM_ONE_NODE:-}" ] || made=$(mktemp -d)
folder="${SLURM_ONE_NODE:-$made}"
mkdir -p "$folder/munge" "$folder/state" "$folder/spool"
# munged wants that everybody can reach its socket and that nobody else can write into its folder.
chmod 711 "$folder" "$folder/munge"
host=$(hostname -s)
cpus=$(getconf _NPROCESSORS_ONLN)
memory=$(awk '/^MemTotal/ {print int($2 / 1024 * 0.95)}' /proc/meminfo)
SLURM_CONF="$folder/slurm.conf"
export SLURM_CONF

cat > "$SLURM_CONF" << END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobRequeue=1
MinJobAge=3600
DefMemPerCPU=$((memory / cpus))
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
END

munged=; slurmctld=; slurmd=
stop() {
    scancel --user="$(id -un)" 2> /dev/null || true
    for process in $slurmd $slurmctld $munged; do
        kill "$process" 2> /dev/null && wait "$process" 2> /dev/null || true
    done
    rm -rf "$made"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ -f "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
munged --foreground --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" > "$folder/munge/out" 2>&1 &
munged=$!
slurmctld -D > "$folder/slurmctld.out" 2>&1 &
slurmctld=$!
slurmd -D > "$folder/slurmd.out" 2>&1 &
slurmd=$!

tries=0
until [ "$(sinfo --noheader --format=%t 2> /dev/null)" = idle ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 60 ]; then
        echo "Slurm did not come up in 60 seconds; its logs are in $folder" >&2
        made=
        exit 1
    fi
    sleep 1
done
code=0
"$@" || code=$?
exit "$code"

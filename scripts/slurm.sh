#!/bin/bash
# Trains on a cluster under Slurm, until the step count is reached:
#
#     sbatch scripts/slurm.sh
#     sbatch --nodes=16 --time=48:00:00 --export=ALL,MODEL=1.3b,OUT=runs/1.3b scripts/slurm.sh --lr 2e-4
#
# Words behind the script go to `train_gpt train` as they are. Ahead of the time limit the run saves and stops; then the
# job puts itself back into the queue, under the same id, and goes on from there. It ends when the step count is
# reached, or when training fails. After a node's failure Slurm itself queues it again (--requeue).
#
# As it stands: four ranks of 12 cores a node, the layout for A64FX (a rank per CMG). Elsewhere: a rank per NUMA domain.
#
#SBATCH --job-name=train_gpt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=12
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=train_gpt-%j.out
# The second warning, if the run has not stopped on its own clock: SIGUSR1 to its ranks 5 minutes before the end.
#SBATCH --signal=USR1@300
set -euo pipefail

# ----------------------------------------------------------------------------------------------------------------------
# Parameters: edit, or give them to sbatch --export=ALL,NAME=VALUE,...

: "${PROGRAM:=./train_gpt}" # built for the compute nodes
: "${MODEL:=124m}"          # or "" and the shape among the words behind the script
: "${DATA:=data}"           # folders of `train_gpt prepare`, with weights if several: "ja:60 en:40"
: "${OUT:=run}"             # on a file system that all nodes share
: "${STEPS:=20000}"
: "${MICRO_BATCH:=4}"       # sequences that a rank computes at a time
: "${GLOBAL_BATCH:=256}"    # sequences in a step
: "${TP:=1}"                # ranks that share each matrix: at most the ranks of a node
: "${PP:=1}"                # ranks that share the layers
: "${RESERVE:=600}"         # seconds of the time limit for what is not training: start of MPI, staging, a slow save
: "${MPI:=pmi2}"            # srun --mpi: pmi2 for MPICH, pmix for Open MPI
: "${LOCAL:=/tmp}"          # a folder on each node; "" stages nothing
: "${STAGE_DATA:=0}"        # 1: copies DATA there as well; the nodes need the room
: "${RANK_MAP:=}"           # a host file that scripts/rank_map.py --format slurm made; "": Slurm's own order, by blocks

# ----------------------------------------------------------------------------------------------------------------------
# Staging: thousands of ranks that read one file from the shared file system wait for each other

each_node() { srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"; }

read -ra data <<<"$DATA"
stage=
if [ -n "$LOCAL" ]; then
    stage=$LOCAL/train_gpt-$SLURM_JOB_ID
    trap 'each_node rm -rf "$stage"' EXIT
    each_node rm -rf "$stage"
    each_node mkdir -p "$stage"
    sbcast --force "$PROGRAM" "$stage/train_gpt"
    PROGRAM=$stage/train_gpt
    for i in "${!data[@]}"; do
        [ "$STAGE_DATA" = 1 ] || break
        path=${data[i]%%:*}
        each_node cp -r "$path" "$stage/data$i"
        data[i]=$stage/data$i${data[i]#"$path"}
    done
fi

# ----------------------------------------------------------------------------------------------------------------------
# Memory pages and places of threads. The program asks for large pages itself where Linux gives them on demand
# (/sys/kernel/mm/transparent_hugepage/enabled: always or madvise). The XOS_ variables are for A64FX systems with
# Fujitsu's large page library and mean nothing elsewhere: pages come on first touch, near the thread that touches them.

export XOS_MMM_L_PAGING_POLICY=demand:demand:demand XOS_MMM_L_ARENA_FREE=2
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK OMP_PLACES=cores OMP_PROC_BIND=close

# ----------------------------------------------------------------------------------------------------------------------
# Training

launch=(srun --mpi="$MPI" --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=cores --mem-bind=local)
if [ -n "$RANK_MAP" ]; then
    export SLURM_HOSTFILE=$RANK_MAP
    launch+=(--distribution=arbitrary)
fi

# Seconds until the job's end, RESERVE off; 0, which is no limit, if the job has none.
seconds_left() {
    local end
    end=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.* EndTime=\([^ ]*\).*/\1/p')
    [ "$end" != Unknown ] || { echo 0 && return; }
    local left=$(($(date -d "$end" +%s) - $(date +%s) - RESERVE))
    echo $((left > 1 ? left : 1))
}

status=0
"${launch[@]}" "$PROGRAM" train --data "${data[@]}" --out "$OUT" ${MODEL:+--model "$MODEL"} --steps "$STEPS" \
    --micro-batch "$MICRO_BATCH" --global-batch "$GLOBAL_BATCH" --tp "$TP" --pp "$PP" \
    --resume auto --time-limit "$(seconds_left)" "$@" || status=$?

case $status in
0) echo "slurm.sh: the step count $STEPS is reached" ;;
100) # stopped ahead of it, with a checkpoint
    echo "slurm.sh: job $SLURM_JOB_ID goes back into the queue"
    [ -z "$stage" ] || each_node rm -rf "$stage"
    trap - EXIT
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # the requeue ends this script
    ;;
*) echo "slurm.sh: training failed with status $status, the job is not queued again" >&2 ;;
esac
exit "$status"

#!/bin/bash
# Trains on a Slurm cluster, in as many jobs as it takes to reach the step count:
#
#     sbatch scripts/slurm.sh
#     sbatch --nodes=16 --time=48:00:00 --export=ALL,MODEL=1.3b,OUT=runs/1.3b \
#         scripts/slurm.sh --lr 2e-4
#
# Arguments after the script name are passed on to `train_gpt train`. Before the time limit the run
# saves a checkpoint and stops; the job then requeues itself under the same job id and resumes. It
# ends when the step count is reached or training fails. After a node failure Slurm requeues the job
# (--requeue).
#
# The defaults are four ranks of 12 cores per node, the layout for A64FX (one rank per CMG). On
# other machines use one rank per NUMA domain.
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
# A fallback in case --time-limit did not stop the run: SIGUSR1 to its ranks 5 minutes before the
# end.
#SBATCH --signal=USR1@300
set -euo pipefail

# --------------------------------------------------------------------------------------------------
# Parameters: edit them, or pass them to sbatch --export=ALL,NAME=VALUE,...

: "${PROGRAM:=./train_gpt}" # built for the compute nodes
: "${MODEL:=124m}"          # or "", with the shape in the script's arguments
: "${DATA:=data}"           # directories made by `train_gpt prepare`: "data", "ja:60 en:40"
: "${OUT:=run}"             # on a file system shared by all nodes
: "${STEPS:=20000}"
: "${MICRO_BATCH:=4}"       # sequences per rank and forward/backward pass
: "${GLOBAL_BATCH:=256}"    # sequences per step
: "${TP:=1}"                # tensor-parallel ranks: at most the ranks of a node
: "${PP:=1}"                # pipeline stages
: "${RESERVE:=600}"         # seconds kept for MPI start-up, staging and a slow save
: "${MPI:=pmi2}"            # srun --mpi: pmi2 for MPICH, pmix for Open MPI
: "${LOCAL:=/tmp}"          # node-local directory; "" disables staging
: "${STAGE_DATA:=0}"        # 1: copy DATA there as well, if it fits
: "${RANK_MAP:=}"           # from scripts/rank_map.py --format slurm; "": Slurm's block order

# --------------------------------------------------------------------------------------------------
# Staging: thousands of ranks that read one file from the shared file system contend for it

each_node() {
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"
}

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

# --------------------------------------------------------------------------------------------------
# Memory pages and thread placement. The program requests transparent huge pages itself where Linux
# provides them (/sys/kernel/mm/transparent_hugepage/enabled: always or madvise). The XOS_ variables
# are for A64FX systems with Fujitsu's large page library (pages are allocated on first touch, close
# to the touching thread) and have no effect elsewhere.

export XOS_MMM_L_PAGING_POLICY=demand:demand:demand XOS_MMM_L_ARENA_FREE=2
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK OMP_PLACES=cores OMP_PROC_BIND=close

# --------------------------------------------------------------------------------------------------
# Training

launch=(srun --mpi="$MPI" --cpus-per-task="$SLURM_CPUS_PER_TASK" --cpu-bind=cores --mem-bind=local)
if [ -n "$RANK_MAP" ]; then
    export SLURM_HOSTFILE=$RANK_MAP
    launch+=(--distribution=arbitrary)
fi

# Seconds until the job ends, minus RESERVE; 0 (no limit) if the job has no time limit.
seconds_left() {
    local end
    end=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/.* EndTime=\([^ ]*\).*/\1/p')
    [ "$end" != Unknown ] || { echo 0 && return; }
    local left=$(($(date -d "$end" +%s) - $(date +%s) - RESERVE))
    echo $((left > 1 ? left : 1))
}

status=0
"${launch[@]}" "$PROGRAM" train --data "${data[@]}" --out "$OUT" ${MODEL:+--model "$MODEL"} \
    --steps "$STEPS" --micro-batch "$MICRO_BATCH" --global-batch "$GLOBAL_BATCH" --tp "$TP" \
    --pp "$PP" --resume auto --time-limit "$(seconds_left)" "$@" || status=$?

case $status in
0) echo "slurm.sh: reached step $STEPS" ;;
100) # stopped early, with a checkpoint
    echo "slurm.sh: requeueing job $SLURM_JOB_ID"
    [ -z "$stage" ] || each_node rm -rf "$stage"
    trap - EXIT
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # the requeue kills this script
    ;;
*) echo "slurm.sh: training failed with status $status; not requeueing the job" >&2 ;;
esac
exit "$status"

#!/bin/bash
# Compares two strategies on a Slurm cluster: 30 networks and 30 baselines. Adapt the three lines of paths and the
# launcher, look at what would be submitted with `bash compare.sh --dry-run`, then submit this script itself as a
# small job that only waits:  sbatch --time=2-00 --mem=4G --signal=B:TERM@120 compare.sh
set -eu

data=/shared/$USER/data           # one folder per dataset
out=/shared/$USER/runs/first      # results; start the script again to continue
export HYDRAKIT_CACHE=/shared/$USER/cache

source /shared/$USER/venv/bin/activate

# `exec`: the signal that Slurm sends to this script before its own time limit reaches hydrakit.
exec hydrakit compare "$@" \
    --strategies hydra,transfer \
    --datasets prostatex,brain,lung,prostatex \
    --seeds 3 --folds 5 \
    --data "$data" --out "$out" \
    --launcher slurm:partition=gpu,gpus=1,cpus=4,memory=8G,time=4:00:00 --jobs 20

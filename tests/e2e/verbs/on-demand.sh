#!/bin/bash
# On the on-demand node, where noded lets ordinary steps pass: first steps of
# one allocation, then a job each.
. ./step.sh
export SLURM_OVERLAP=1
verb secure-srun srun ./facts.sh a step
also secure-srun-two srun -n2 --overcommit -l sh -c 'echo $SLURM_PROCID; exit $SLURM_PROCID'
also secure-srun-hooks srun --task-prolog="$PWD/prolog.sh" --task-epilog="$PWD/epilog.sh" sh -c 'echo $FROM_PROLOG'
also secure-srun-stdin sh -c 'seq 3 | srun cat'
also secure-srun-signal srun sh -c 'kill -TERM $$'
wait
unset SLURM_OVERLAP
exit 0

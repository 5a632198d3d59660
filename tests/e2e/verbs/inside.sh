#!/bin/bash
# The steps of one allocation, from the node where salloc was called.
. ./step.sh
export SLURM_OVERLAP=1
verb srun-plain srun sh -c 'echo to stdout; echo to stderr >&2'
verb srun-facts srun ./facts.sh 'a b' '' c
also srun-two-labelled srun -n2 --overcommit -l sh -c 'echo $SLURM_PROCID of $SLURM_NTASKS on $SLURMD_NODENAME'
also srun-output srun -n2 --overcommit -J named --output="pattern-%x-%j-%t-%N-%u.txt" --error="pattern-err-%t.txt" sh -c 'echo $SLURM_PROCID; echo e >&2'
also srun-input srun --input=./input.txt cat
also srun-stdin sh -c 'seq 3 | srun cat'
also srun-pty script -qec "srun --pty sh -c 'test -t 0 && test -t 1 && tty | tr -d 0-9; stty size; echo \$TERM'" /dev/null
also srun-export-none srun --export=NONE /bin/sh -c '/usr/bin/env | /usr/bin/sort'
also srun-export-some srun --export=ONE=1,PATH sh -c 'echo $ONE; env | sort'
also srun-chdir srun --chdir=/tmp pwd
also srun-hooks srun --task-prolog="$PWD/prolog.sh" --task-epilog="$PWD/epilog.sh" sh -c 'echo prolog gave $FROM_PROLOG, unset ${HOSTTYPE-nothing}'
also srun-exit-7 srun sh -c 'exit 7'
also srun-exit-of-two srun -n2 --overcommit sh -c 'exit $SLURM_PROCID'
also srun-signal srun sh -c 'kill -TERM $$'
also srun-no-program srun ./none-such
also srun-multi-prog srun -n2 --overcommit -l --multi-prog multi.conf
also srun-bcast srun --bcast=/tmp/verbs-bcast ./facts-small.sh
also srun-propagate sh -c 'ulimit -n 300; ulimit -c 0; srun --propagate=NOFILE,CORE sh -c "ulimit -n; ulimit -c"'
also srun-kill-on-bad-exit srun -n2 --overcommit --kill-on-bad-exit sh -c '[ $SLURM_PROCID = 0 ] && exit 3; sleep 100'
also srun-bad-option srun --no-such-option true
also srun-unbuffered srun --unbuffered -n1 sh -c 'echo one; echo two'
wait
verb sbcast sbcast -f ./input.txt /tmp/verbs-sbcast.txt
verb sbcast-there srun sh -c 'ls -l /tmp/verbs-sbcast.txt | cut -d" " -f1-5; cat /tmp/verbs-sbcast.txt; rm -f /tmp/verbs-sbcast.txt /tmp/verbs-bcast'
env | grep -E '^SLURM' | sort >"$OUT/salloc-environment.out"
exit 5

#!/bin/bash
# Slurm's usual verbs as an ordinary user, on an ordinary node and on an
# on-demand one: run.sh begins the jobs, writes what comes out of each to
# /tmp/verbs, and returns when no job is left.
cd "$(dirname "$0")" || exit 1
rm -rf /tmp/verbs
mkdir /tmp/verbs
. ./step.sh
export LC_ALL=C
BATCH="-p batch -w n1 -t 5" SECURE="-p secure -w s2 -t 5"

printf 'line 1\nline 2\n' >input.txt
printf '0 echo first %%t\n1 echo second %%o\n' >multi.conf
printf '#!/bin/sh\necho "small on $SLURMD_NODENAME"\n' >facts-small.sh
printf '#!/bin/sh\necho "export FROM_PROLOG=$SLURM_PROCID"\necho "unset HOSTTYPE"\necho "print the prolog speaks"\n' >prolog.sh
printf '#!/bin/sh\necho "the epilog of task $SLURM_PROCID, $(id -un), $(env | grep -c SLURM) variables" >>epilog-$SLURM_STEP_NODELIST-$SLURM_NTASKS.txt\n' >epilog.sh
cat >script.sh <<'END'
#!/bin/bash
#SBATCH --job-name=script
#SBATCH --partition=batch
#SBATCH --nodelist=n1
#SBATCH --time=5
#SBATCH --output=script-%x-%u.txt
#SBATCH --comment=ordinary
echo "script $0" | sed 's/[0-9][0-9]*/N/'
./facts.sh "$@"
srun --overlap ./facts.sh from a batch script
END
cat >secure.sh <<'END'
#!/bin/sh
./facts.sh of a batch step
srun --overlap --task-epilog="$PWD/epilog.sh" ./facts.sh of its step
END
cat >requeue.sh <<'END'
#!/bin/sh
echo "restart ${SLURM_RESTART_COUNT-none}"
[ "$SLURM_RESTART_COUNT" = 1 ] || sleep 100
END
cat >limit.sh <<'END'
#!/bin/bash
trap 'echo warned' USR1
echo begun
sleep 300 & wait
sleep 300 & wait
END
chmod 755 ./*.sh

# -- the ordinary node, many jobs side by side
verb sbatch-time-limit sbatch -p batch -w n1 -J limit -t 1 --signal=B:USR1@40 -o limit.txt limit.sh
also salloc salloc $BATCH -J alloc ./inside.sh
also salloc-secure salloc $SECURE -J alloc-secure ./on-demand.sh
verb sbatch-script sbatch script.sh 'x y' z
also sbatch-wrap sbatch $BATCH -J wrap -o wrap.txt --wrap 'echo wrapped; exit 3'
also sbatch-stdin sh -c "printf '#!/bin/sh\necho from stdin \$1\n' | sbatch $BATCH -J stdin -o stdin.txt /dev/stdin arg"
also sbatch-array sbatch $BATCH -J array -a 1,3%1 -o 'array-%a.txt' --wrap 'echo $SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT $SLURM_ARRAY_TASK_MAX'
also sbatch-export-none sbatch $BATCH -J none -o none.txt --export=NONE --wrap 'env | sort'
also sbatch-get-user-env sbatch $BATCH -J userenv -o userenv.txt --export=NONE --get-user-env --wrap 'env | sort; echo $FROM_PROFILE'
also sbatch-error sbatch $BATCH -J error -o error.txt -e error-%x.txt --open-mode=append --wrap 'echo out; echo err >&2; kill -KILL $$'
also sbatch-no-script sbatch none-such.sh
also sbatch-bad-partition sbatch -p none-such --wrap true
also sbatch-test-only sh -c "sbatch --test-only $BATCH --wrap true 2>&1 | sed 's/at .* using/at TIME using/'"
also sbatch-epilog sbatch $BATCH -J hooks -o hooks.txt --wrap 'srun --overlap --task-epilog=$PWD/epilog.sh -n3 --overcommit true'
verb sbatch-requeue sbatch $BATCH --parsable -J requeue --requeue -o requeue.txt --open-mode=append requeue.sh
verb sbatch-long sbatch $BATCH --parsable -J long -o long.txt --wrap 'srun --overlap sh -c "while :; do echo tick; sleep 1; done" 2>/dev/null'
verb sbatch-pending sbatch $BATCH --parsable -J pending -H -o pending.txt --wrap 'echo never'
verb salloc-no-shell salloc $BATCH --no-shell -J noshell
long=$(cat /tmp/verbs/sbatch-long.out) pending=$(cat /tmp/verbs/sbatch-pending.out) requeue=$(cat /tmp/verbs/sbatch-requeue.out)
noshell=$(squeue -h -n noshell -o %i)
verb sbatch-dependency sbatch $BATCH -J after -d "afterany:$long" -o after.txt --wrap 'echo after'
verb squeue-pending squeue -h -j "$pending" -o '%j %t %r %P %u %D %l %o'
verb scontrol-show-pending sh -c "scontrol show job $pending"
verb scancel-pending scancel "$pending"
verb srun-jobid srun --jobid="$noshell" --overlap sh -c 'echo in the allocation of another command; env | grep -c SLURM'
verb scontrol-update scontrol update "jobid=$noshell" comment=changed
verb scancel-no-shell scancel "$noshell"
until squeue -h -s -j "$long" -o %i | grep -q '\.0$'; do sleep 0.5; done
verb srun-into-own-job srun --jobid="$long" --overlap sh -c 'echo joined; ps -o comm= -p $PPID'
verb sattach-layout sattach --layout "$long.0"
verb sattach sh -c "timeout 30 sattach $long.0 2>/dev/null | head -n 1"
verb scontrol-show-step scontrol show step "$long.0"
verb squeue-steps squeue -h -s -j "$long" -o '%i %j %P %u %N'
verb scancel-signal scancel -s CONT -b "$long"
verb scancel-running scancel "$long"
until squeue -h -j "$requeue" -o %t | grep -qx R; do sleep 0.5; done
verb scontrol-requeue scontrol requeue "$requeue"
# a requeued job waits two minutes, unless it is told otherwise
until [ "$(squeue -h -j "$requeue" -o %t)" = PD ]; do sleep 0.5; done
verb scontrol-start-now scontrol update "jobid=$requeue" StartTime=now
also secure-srun-direct srun $SECURE -J direct sh -c 'echo on $SLURMD_NODENAME; exit 9'
also secure-sbatch sbatch $SECURE -J secure-script -o secure-%x.txt ./secure.sh
wait
until [ -z "$(squeue -h -u "$(id -un)" -o %i)" ]; do sleep 1; done
verb sinfo sinfo -h -o '%P %a %D %N %c %m %f %G'
verb sinfo-nodes sinfo -h -N -o '%N %T %E'
verb squeue squeue -h
verb scontrol-show-partition scontrol show partition
first=$(tr -dc 0-9 </tmp/verbs/sbatch-time-limit.out)
scontrol -o show job | awk -v first="$first" '{ split($1, id, "="); if (id[2] >= first + 0) print }' |
	sed 's/^JobId=[0-9]* *//; s/ArrayJobId=[0-9]* *//' | sort >/tmp/verbs/scontrol-show-jobs.out

#!/bin/sh
# What a task can see of how it was started; nothing here may depend on the
# plugin. Arguments are printed too.
echo "arguments: $# $*"
id; pwd; umask
echo "-- environment"; env | sort
echo "-- limits"; ulimit -a
echo "-- descriptors"
for fd in /proc/$$/fd/*; do
	echo "${fd##*/} $(readlink "$fd") $(grep flags "/proc/$$/fdinfo/${fd##*/}")"
done
echo "-- namespaces"
for ns in /proc/$$/ns/*; do echo "${ns##*/} $(readlink "$ns")"; done
echo "-- process"
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Sig[BIC]|Threads|Cpus_allowed|CoreDumping|Name)' /proc/$$/status
cat /proc/$$/cgroup /proc/$$/oom_score_adj /proc/$$/coredump_filter
ps -o ni= -o sched= -o comm= -p $$,$PPID | cat
echo "-- parent"
cat "/proc/$PPID/comm"

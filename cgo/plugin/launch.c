/*
 * Before anything of the step runs: ask noded, then shut the parent's doors.
 */
#include "evidence.h"
#include "handoff.h"
#include "mutant.h"
#include "noexec.h"
#include "parent.h"
#include "step.h"

#include <errno.h>
#include <fcntl.h>
#include <slurm/slurm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void refuse(const char *phase, const char *cause, const char *next)
{
	cl_step.state = CL_REFUSED;
	snprintf(cl_step.why, sizeof(cl_step.why), "refused in phase %s: %s",
		 phase, cause);
	cl_step.next = next;
}

static bool number(spank_t sp, spank_item_t item, uint32_t *n)
{
	return spank_get_item(sp, item, n) == ESPANK_SUCCESS;
}

static bool put_item(struct cl_writer *w, spank_t sp, const char *name,
		     spank_item_t item)
{
	uint32_t n;

	if (!number(sp, item, &n))
		return false;
	cl_put_number(w, name, n);
	return true;
}

static bool put_owner(struct cl_writer *w, spank_t sp)
{
	gid_t *groups = NULL, gid;
	uid_t uid;
	int n = 0;

	if (spank_get_item(sp, S_JOB_UID, &uid) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_GID, &gid) != ESPANK_SUCCESS ||
	    spank_get_item(sp, S_JOB_SUPPLEMENTARY_GIDS, &groups, &n) !=
		    ESPANK_SUCCESS)
		return false;
	cl_put_number(w, "uid", uid);
	cl_put_number(w, "gid", gid);
	for (int i = 0; groups && i < n; i++)
		cl_put_number(w, "sgid", groups[i]);
	return true;
}

/*
 * The job's nodes. Slurm 24.11 answers 0 for the batch step; there slurmstepd
 * itself sets the variable (env_array_for_batch_job), over what the user gave.
 * Who controls Slurm can also send tasks under the batch step's number: those
 * would have their input and a prolog from outside.
 */
static bool put_nodes(struct cl_writer *w, spank_t sp)
{
	char text[12], *end;
	uint32_t tasks_on;
	unsigned long n;

	if (!cl_step.batch)
		return put_item(w, sp, "nnodes", S_JOB_NNODES);
	if (!number(sp, S_JOB_NNODES, &tasks_on) || tasks_on != 0)
		return false;
	if (spank_getenv(sp, "SLURM_JOB_NUM_NODES", text, sizeof(text)) !=
	    ESPANK_SUCCESS)
		return false;
	n = strtoul(text, &end, 10);
	if (text[0] < '1' || text[0] > '9' || *end || n > UINT32_MAX)
		return false;
	cl_put_number(w, "nnodes", n);
	return true;
}

static bool put_numbers(struct cl_writer *w, spank_t sp)
{
	return put_nodes(w, sp) &&
	       put_item(w, sp, "nodeid", S_JOB_NODEID) &&
	       put_item(w, sp, "ntasks", S_JOB_LOCAL_TASK_COUNT) &&
	       put_item(w, sp, "restart", S_SLURM_RESTART_COUNT) &&
	       put_item(w, sp, "arrayjob", S_JOB_ARRAY_ID) &&
	       put_item(w, sp, "arraytask", S_JOB_ARRAY_TASK_ID);
}

/*
 * SPANK has no item for the working directory. The directory in which sbatch
 * was called is what the user meant by a relative path; it is only a hint,
 * which noded follows with the user's own rights.
 */
static void put_directory(struct cl_writer *w, spank_t sp)
{
	char cwd[CL_PATH_BYTES_MAX + 1];

	if (spank_getenv(sp, "SLURM_SUBMIT_DIR", cwd, sizeof(cwd)) !=
		    ESPANK_SUCCESS || cwd[0] != '/')
		strcpy(cwd, "/");
	cl_put(w, "cwd", cwd);
}

/* The job's name, for %x; one that is too long for a file's name is left out. */
static void put_name(struct cl_writer *w, spank_t sp)
{
	char name[CL_NAME_BYTES_MAX + 1];

	if (spank_getenv(sp, "SLURM_JOB_NAME", name, sizeof(name)) ==
		    ESPANK_SUCCESS && name[0])
		cl_put(w, "name", name);
}

/*
 * The spooled script, opened before anything of the job could alter it, and
 * what noded holds against the sealed arguments. Those of other jobs and steps
 * are their own matter, and may be longer than a datagram.
 */
static bool put_script(struct cl_writer *w, spank_t sp, int *file)
{
	char **argv = NULL;
	int argc = 0;

	if (spank_get_item(sp, S_JOB_ARGV, &argc, &argv) != ESPANK_SUCCESS ||
	    argc < 1)
		return false;
	for (int i = 0; i < (cl_step.secure ? argc : 1); i++)
		cl_put(w, "arg", argv[i]);
	*file = open(argv[0], O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return *file >= 0;
}

/* Describes the step; *file is the open file that goes with it, or -1. */
static bool put_step(struct cl_writer *w, spank_t sp, uint32_t step, int *file)
{
	cl_put(w, "ask", "launch");
	if (!put_item(w, sp, "job", S_JOB_ID))
		return false;
	cl_put_number(w, "step", step);
	if (!put_owner(w, sp) || !put_numbers(w, sp))
		return false;
	cl_put(w, "secure", cl_step.secure ? "1" : "0");
	put_directory(w, sp);
	if (!cl_step.batch)
		return cl_put_evidence(w, sp, file);
	put_name(w, sp);
	return put_script(w, sp, file);
}

static void hang_up(void)
{
	if (cl_step.lifeline >= 0)
		close(cl_step.lifeline);
	cl_step.lifeline = -1;
}

/*
 * Asks noded. The verdict is in cl_step.answer; false when there is none.
 *
 * A session outlives a noded that is killed, so its steps ask the next one,
 * once: systemd holds the socket meanwhile. A job whose admission was broken
 * off is undone and not asked for again.
 */
static bool ask_noded(spank_t sp, uint32_t step, char *buf, char *why)
{
	struct timespec deadline = cl_deadline(CL_LAUNCH_SECONDS);
	struct cl_writer w;
	int file = -1, rc = CL_HUNG_UP;

	cl_begin(&w, buf, CL_DATAGRAM_MAX);
	if (!put_step(&w, sp, step, &file)) {
		snprintf(why, CL_WHY_BYTES, "Slurm does not describe the step");
		rc = -1;
	}
	for (int times = cl_step.batch ? 1 : 2; rc == CL_HUNG_UP && times; times--) {
		hang_up();
		rc = cl_step.lifeline = cl_connect(CL_SOCKET, &deadline, why);
		if (rc >= 0)
			rc = cl_ask(cl_step.lifeline, &w, file, CL_ASK_LAUNCH,
				    &deadline, cl_step.answer, why);
	}
	/* not kept: /proc/self/fd of a forked program would lead to it */
	if (file >= 0)
		close(file);
	return rc == 0;
}

static void ask(spank_t sp, uint32_t step)
{
	char why[CL_WHY_BYTES] = "out of memory";
	char *buf = malloc(CL_DATAGRAM_MAX);

	cl_step.answer = calloc(1, sizeof(*cl_step.answer));
	if (!buf || !cl_step.answer || !ask_noded(sp, step, buf, why)) {
		free(cl_step.answer);
		cl_step.answer = NULL;
		refuse("hand-off", why,
		       "tell the administrator that cloister-noded does not "
		       "answer on this node, and submit again later");
	} else if (cl_step.answer->reply.verdict == CL_PASS) {
		free(cl_step.answer);
		cl_step.answer = NULL;
	} else if (cl_step.answer->reply.verdict == CL_ADMIT) {
		cl_step.state = CL_ADMITTED;
	} else if (cl_step.answer->reply.verdict == CL_JOIN) {
		cl_step.state = CL_ADMITTED;
		cl_step.joined = true;
	} else {
		cl_step.state = CL_REFUSED;
	}
	free(buf);
	/* nothing depends on the connection of a step that joins a session */
	if (cl_step.state != CL_ADMITTED || cl_step.joined)
		hang_up();
}

/* Takes back an admission: noded sees the lifeline end and undoes the rest. */
static void turn_away(const char *cause)
{
	if (cl_step.answer) {
		if (cl_step.answer->mount_ns >= 0)
			close(cl_step.answer->mount_ns);
		if (cl_step.answer->ipc_ns >= 0)
			close(cl_step.answer->ipc_ns);
		free(cl_step.answer);
		cl_step.answer = NULL;
	}
	hang_up();
	refuse("hand-off", cause, "tell the administrator");
}

/*
 * From here on slurmstepd itself must run nothing for the user. When the
 * namespace cannot be had, the step is refused and the filter alone stands,
 * which a refused step can have at once. When that fails too, this process
 * must not live: the node is broken in a way that no user can bring about, so
 * a drained node is the right end.
 */
static void shut_doors(void)
{
	if (cl_step.allow_exec)
		return;
	if (cl_noexec_namespace() < 0) {
		slurm_error("cloister: no noexec namespace: %s", strerror(errno));
		turn_away("slurmstepd could not be kept from running programs");
	}
	if (cl_step.joined && cl_step.state == CL_ADMITTED &&
	    cl_sit_in_view(cl_step.answer->mount_ns) < 0) {
		slurm_error("cloister: not in the view: %s", strerror(errno));
		turn_away("slurmstepd could not be moved to where it opens "
			  "the step's files");
	}
	if (cl_step.state == CL_REFUSED && cl_forbid_exec() < 0) {
		slurm_error("cloister: no system call filter: %s, giving up",
			    strerror(errno));
		_exit(1);
	}
}

/*
 * Whether the job is a component of a heterogeneous one, which SPANK has no
 * item for: slurmctld sets the variable in the leader (job_scheduler.c of
 * 24.11). The other components would run beside the sealed job, unsigned.
 */
static bool heterogeneous(spank_t sp)
{
	char size[2];
	spank_err_t rc = spank_getenv(sp, "SLURM_HET_SIZE", size, sizeof(size));

	return rc != ESPANK_ENV_NOEXIST &&
	       !cl_mutant_removed("one-component");
}

void cl_launch(spank_t sp, int ac, char **av, bool secure)
{
	uint32_t step = SLURM_BATCH_SCRIPT;

	cl_step.secure = secure;
	cl_read_arguments(ac, av);
	/* the extern step has no task, so it can neither run nor be refused */
	if (number(sp, S_JOB_STEPID, &step) && step == SLURM_EXTERN_CONT)
		return;
	cl_step.parent = getpid();
	cl_step.batch = step == SLURM_BATCH_SCRIPT;
	cl_step.keep_environment = cl_mutant_removed("clean-environment");
	cl_step.keep_input = cl_mutant_removed("empty-input");
	cl_step.allow_exec = cl_mutant_removed("noexec-parent");
	cl_step.any_directory =
		cl_step.allow_exec || cl_mutant_removed("step-proof");
	cl_step.keep_output = cl_mutant_removed("output-in-volume");
	if (cl_step.node == CL_NODE_SECURE && cl_step.secure &&
	    heterogeneous(sp))
		refuse("admit",
		       "a sealed job cannot be part of a heterogeneous job",
		       "submit it alone, without ':'");
	else if (cl_step.node == CL_NODE_SECURE)
		ask(sp, step);
	else if (cl_step.node == CL_NODE_UNKNOWN)
		cl_step.state = CL_REFUSED;
	else
		refuse("submit",
		       "this node runs no cloister-noded, so it takes no "
		       "--secure job",
		       "submit to the cluster's secure partition");
	if (cl_step.state != CL_UNTOUCHED)
		shut_doors();
}

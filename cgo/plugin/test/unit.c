/*
 * Tests of what needs no Slurm: the codec, the environment, the two walls, the
 * way into the job view.
 * Each CHECK names a behaviour; the sanitizers watch over the rest.
 */
#define _GNU_SOURCE
#include "check.h"
#include "claim.h"
#include "client.h"
#include "environment.h"
#include "noexec.h"
#include "parent.h"
#include "proof.h"
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define ADMIT "cloister=1\0verdict=admit\0env=A=1\0env=B_2=x=y\0home=/h\0" \
	      "cwd=/c\0stdout=/o\0stderr=/e\0message=hello"

/* The array's own NUL ends the last field, as in a datagram. */
#define PARSE(ask, text) parse(ask, text, sizeof(text))

static struct cl_reply reply;

static int parse(enum cl_ask ask, const char *text, size_t len)
{
	/* a copy of the exact size, so that the sanitizer sees every overrun */
	static char *copy;
	const char *why = NULL;
	int rc;

	free(copy);
	copy = malloc(len);
	memcpy(copy, text, len);
	rc = cl_parse_reply(copy, len, ask, &reply, &why);
	CHECK("a refusal of a reply has a reason", rc == 0 || why != NULL);
	return rc;
}

static void an_admission_is_read(void)
{
	CHECK("an admission is read", PARSE(CL_ASK_LAUNCH, ADMIT) == 0);
	CHECK("it admits", reply.verdict == CL_ADMIT);
	CHECK("its variables", reply.nenv == 2 && !strcmp(reply.env[1], "B_2=x=y"));
	CHECK("its paths", !strcmp(reply.home, "/h") && !strcmp(reply.err, "/e"));
	CHECK("its messages", reply.nmessages == 1);
	CHECK("join is read", PARSE(CL_ASK_LAUNCH, "cloister=1\0verdict=join\0cwd=/data") == 0 &&
				      reply.verdict == CL_JOIN && !strcmp(reply.cwd, "/data"));
	CHECK("pass is read", PARSE(CL_ASK_LAUNCH, "cloister=1\0verdict=pass") == 0 &&
				      reply.verdict == CL_PASS);
	CHECK("an end is read", PARSE(CL_ASK_END, "cloister=1\0verdict=released\0message=m") == 0 &&
					reply.verdict == CL_RELEASED);
	CHECK("fenced is read", PARSE(CL_ASK_END, "cloister=1\0verdict=fenced") == 0 &&
					reply.verdict == CL_FENCED);
}

#define REFUSED(what, ask, text) CHECK(what, PARSE(ask, text) < 0)

static void an_odd_reply_is_refused(void)
{
	REFUSED("nothing", CL_ASK_LAUNCH, "");
	REFUSED("another format", CL_ASK_LAUNCH, "cloister=2\0verdict=pass");
	REFUSED("no format", CL_ASK_LAUNCH, "verdict=pass");
	REFUSED("no verdict", CL_ASK_LAUNCH, "cloister=1");
	REFUSED("two verdicts", CL_ASK_LAUNCH, "cloister=1\0verdict=pass\0verdict=pass");
	REFUSED("format twice", CL_ASK_LAUNCH, "cloister=1\0cloister=1\0verdict=pass");
	REFUSED("unknown verdict", CL_ASK_LAUNCH, "cloister=1\0verdict=maybe");
	REFUSED("verdict's beginning", CL_ASK_LAUNCH, "cloister=1\0verdict=pas");
	REFUSED("an end for a launch", CL_ASK_LAUNCH, "cloister=1\0verdict=released");
	REFUSED("a launch for an end", CL_ASK_END, "cloister=1\0verdict=pass");
	REFUSED("an unknown field", CL_ASK_LAUNCH, "cloister=1\0verdict=pass\0x=1");
	REFUSED("a field without value", CL_ASK_LAUNCH, "cloister=1\0verdict=pass\0message");
	REFUSED("an empty field", CL_ASK_LAUNCH, "cloister=1\0\0verdict=pass");
	REFUSED("pass with a path", CL_ASK_LAUNCH, "cloister=1\0verdict=pass\0home=/h");
	REFUSED("join without cwd", CL_ASK_LAUNCH, "cloister=1\0verdict=join");
	REFUSED("join with home", CL_ASK_LAUNCH, "cloister=1\0verdict=join\0cwd=/\0home=/h");
	REFUSED("join with a variable", CL_ASK_LAUNCH, "cloister=1\0verdict=join\0cwd=/\0env=A=1");
	REFUSED("join for an end", CL_ASK_END, "cloister=1\0verdict=join\0cwd=/");
	REFUSED("refusal with a variable", CL_ASK_LAUNCH, "cloister=1\0verdict=refuse\0message=m\0env=A=1");
	REFUSED("refusal without reason", CL_ASK_LAUNCH, "cloister=1\0verdict=refuse");
	REFUSED("control character", CL_ASK_LAUNCH, "cloister=1\0verdict=refuse\0message=a\nb");
	REFUSED("admission without cwd", CL_ASK_LAUNCH,
		"cloister=1\0verdict=admit\0home=/h\0stdout=/o\0stderr=/e");
	REFUSED("relative path", CL_ASK_LAUNCH,
		"cloister=1\0verdict=admit\0home=h\0cwd=/c\0stdout=/o\0stderr=/e");
	REFUSED("path twice", CL_ASK_LAUNCH, ADMIT "\0home=/h");
	REFUSED("variable twice", CL_ASK_LAUNCH, ADMIT "\0env=A=2");
	REFUSED("variable without name", CL_ASK_LAUNCH, ADMIT "\0env==2");
	REFUSED("variable with odd name", CL_ASK_LAUNCH, ADMIT "\0env=BASH_FUNC_x%%=() { :; }");
	CHECK("an open last field", parse(CL_ASK_LAUNCH, ADMIT, sizeof(ADMIT) - 1) < 0);
	CHECK("zero bytes", parse(CL_ASK_LAUNCH, "", 0) < 0);
}

static void limits_hold(void)
{
	static char big[CL_DATAGRAM_MAX];
	struct cl_writer w;

	cl_begin(&w, big, sizeof(big));
	cl_put(&w, "verdict", "refuse");
	for (int i = 0; i <= CL_MESSAGES_MAX; i++)
		cl_put(&w, "message", "m");
	CHECK("too many messages", !w.failed && parse(CL_ASK_LAUNCH, big, w.len) < 0);

	char name[16];

	cl_begin(&w, big, sizeof(big));
	cl_put(&w, "verdict", "admit");
	for (int i = 0; i <= CL_ENV_MAX; i++) {
		snprintf(name, sizeof(name), "V%d=1", i);
		cl_put(&w, "env", name);
	}
	CHECK("too many variables", !w.failed && parse(CL_ASK_LAUNCH, big, w.len) < 0);
}

static void a_writer_stops_at_its_end(void)
{
	char buf[20];
	struct cl_writer w;

	cl_begin(&w, buf, sizeof(buf)); /* 11 bytes */
	cl_put(&w, "a", "123456"); /* 9 more: full */
	CHECK("what fits is written", !w.failed && w.len == 20);
	cl_put(&w, "b", "");
	CHECK("what does not fit fails", w.failed && w.len == 20);
	cl_begin(&w, buf, sizeof(buf));
	cl_put(&w, "a", "1234567");
	CHECK("one byte too many fails", w.failed);
	cl_begin(&w, buf, sizeof(buf));
	cl_put_number(&w, "n", UINT64_MAX);
	CHECK("a number that does not fit fails", w.failed);
	cl_put(&w, "a", "1");
	CHECK("a failed writer stays failed", w.failed);
	cl_begin(&w, buf, 3);
	CHECK("no room at all", w.failed);
}

static void only_facts_of_slurm_stay(void)
{
	static const char *const gone[] = {
		"BASH_ENV=/shared/evil", "ENV=/x", "SHELLOPTS=xtrace", "PS4=$(x)",
		"BASH_FUNC_ls%%=() { evil; }", "PATH=/shared/evil", "LD_PRELOAD=/x",
		"GCONV_PATH=/x", "PYTHONPATH=/x", "PERL5LIB=/x", "HOME=/x",
		"SLURM_TASK_PROLOG=/x", "SLURM_CONF=/x", "SRUN_DEBUG=3",
		"SLURM_RLIMIT_CORE=9", "SLURM_RLIMIT_NOFILE=U64",
		"SLURM_RLIMIT_MEMLOCK=0", "SLURM_UMASK=0000", "TMPDIR=/x",
		"APPTAINER_BIND=/:/x", "SINGULARITYENV_X=1", "SLURM_JOB_ID=1;x",
		"SLURM_JOB_ID=", "SLURM_JOB_ID", "SLURM_JOB_ID=-1",
		"SLURM_JOB_ID=123456789012345678901", "SLURM_JOB_IDS=1",
		"SLURM_JOB_NAME=$(evil)", "SLURM_JOB_NAME=-rf",
		"SLURM_JOB_NODELIST=s1 s2", "SLURM_TASKS_PER_NODE=1\n", "=1", "",
	};
	static const char *const stay[] = {
		"SLURM_JOB_ID=17", "SLURM_PROCID=0", "SLURM_JOB_NODELIST=n[01-04,7]",
		"SLURM_TASKS_PER_NODE=2(x3),1", "SLURM_JOB_NAME=fit_2.1+x",
		"SLURMD_NODENAME=s1", "SLURM_ARRAY_TASK_ID=3",
	};

	for (size_t i = 0; i < sizeof(gone) / sizeof(*gone); i++)
		CHECK(gone[i], !cl_env_allowed(gone[i]));
	for (size_t i = 0; i < sizeof(stay) / sizeof(*stay); i++)
		CHECK(stay[i], cl_env_allowed(stay[i]));

	char a[] = "BASH_ENV=/x", b[] = "SLURM_JOB_ID=1", c[] = "SLURM_JOB_ID=2",
	     d[] = "X", e[] = "SLURM_PROCID=0";
	char *env[] = { a, b, c, d, e, NULL };

	CHECK("two stay", cl_env_filter(env) == 2);
	CHECK("the first of a name", env[0] == b && env[1] == e);
	CHECK("nothing behind", !env[2] && !env[3] && !env[4] && !env[5]);

	char *bad[] = { a, d, NULL };

	CHECK("none stays", cl_env_filter(bad) == 0 && !bad[0] && !bad[1]);
}

static void a_proven_step_keeps_its_own_variables(void)
{
	char a[] = "BASH_ENV=/x", b[] = "SLURM_JOB_ID=1", c[] = "SLURM_CONF=/x",
	     d[] = "X", e[] = "A=two\nlines", f[] = "A=again",
	     g[] = CL_PROOF_VARIABLE "=1:0:0:/";
	char *env[] = { a, b, c, d, e, f, g, NULL };

	CHECK("three stay", cl_env_filter_proven(env) == 3);
	CHECK("its own and Slurm's facts", env[0] == a && env[1] == b && env[2] == e);
	CHECK("nothing behind", !env[3] && !env[4] && !env[5] && !env[6]);
}

static const char nonce[] = "000102030405060708090a0b0c0d0e0f";

static struct cl_claim sample(char **argv, char **env)
{
	struct cl_claim c = { .job = 7, .step = 3, .uid = 2001, .nodes = 1,
			      .tasks = 2, .cwd = "/data", .argv = argv,
			      .argc = 2, .env = env };

	memcpy(c.nonce, nonce, sizeof(nonce));
	return c;
}

/* noded/stepproof/plugin_test.go shows that noded takes such a claim. */
static void a_claim_is_the_same_whatever_the_order(void)
{
	static const char want[] =
		"cloister-step=1\0job=7\0step=3\0uid=2001\0nnodes=1\0ntasks=2\0"
		"nonce=000102030405060708090a0b0c0d0e0f\0cwd=/data\0"
		"arg=/bin/echo\0arg=\0env=A=1\0env=B=x=y";
	char *argv[] = { (char[]){ "/bin/echo" }, (char[]){ "" }, NULL };
	char *env[] = { (char[]){ "SLURM_JOB_ID=7" }, (char[]){ "B=x=y" },
			(char[]){ "A=1" }, (char[]){ "SLURMD_X=1" }, NULL };
	struct cl_claim c = sample(argv, env);
	char *bytes = NULL, *other = env[1];
	ssize_t n = cl_claim_write(&c, &bytes);

	CHECK("a claim", n == sizeof(want) && !memcmp(bytes, want, sizeof(want)));
	free(bytes);
	env[1] = env[2], env[2] = other;
	n = cl_claim_write(&c, &bytes);
	CHECK("another order", n == sizeof(want) && !memcmp(bytes, want, sizeof(want)));
	free(bytes);

	char *huge = malloc(CL_CLAIM_MAX);

	memset(huge, 'x', CL_CLAIM_MAX - 1);
	huge[CL_CLAIM_MAX - 1] = '\0';
	env[3] = huge;
	CHECK("too long", cl_claim_write(&c, &bytes) < 0 && !bytes);
	free(huge);
}

static void a_proof_is_read_strictly(void)
{
	static const char mac[] =
		"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
	char text[256], cut[256];
	struct cl_proof p;

	snprintf(text, sizeof(text), "1:%s:%s:/data:x", nonce, mac);
	CHECK("a proof", cl_proof_read(text, &p) == 0 && !strcmp(p.nonce, nonce) &&
				 !strcmp(p.mac, mac) && !strcmp(p.cwd, "/data:x"));
	for (size_t n = 0; n < strlen("1::/") + strlen(nonce) + strlen(mac); n++) {
		memcpy(cut, text, n);
		cut[n] = '\0';
		CHECK("a piece of a proof", cl_proof_read(cut, &p) < 0);
	}
	for (size_t at = 0; at < 3 + strlen(nonce) + strlen(mac); at++) {
		snprintf(cut, sizeof(cut), "%s", text);
		cut[at] = 'A';
		CHECK("a capital in a proof", cl_proof_read(cut, &p) < 0);
	}
}

static void a_proof_needs_the_key(void)
{
	char dir[] = "/tmp/cloister-proof.XXXXXX", path[64], proof[CL_PROOF_BYTES_MAX + 1],
	     again[CL_PROOF_BYTES_MAX + 1], why[256] = "";
	char *argv[] = { (char[]){ "/bin/echo" }, (char[]){ "" }, NULL };
	char *env[] = { (char[]){ "A=1" }, NULL };
	struct cl_claim c = sample(argv, env);
	struct cl_proof p;
	int fd;

	CHECK("a directory", mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/key", dir);
	CHECK("no key, no session", cl_prove(path, &c, proof, why, sizeof(why)) == 1);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	CHECK("a short key", write(fd, "0123456789abcdef0123456789abcde", 31) == 31 &&
				     cl_prove(path, &c, proof, why, sizeof(why)) < 0 &&
				     strstr(why, "not a key"));
	CHECK("a key", write(fd, "f", 1) == 1 &&
			       cl_prove(path, &c, proof, why, sizeof(why)) == 0);
	CHECK("its form", cl_proof_read(proof, &p) == 0 && !strcmp(p.nonce, c.nonce) &&
				  !strcmp(p.cwd, "/data"));
	CHECK("never the same", cl_prove(path, &c, again, why, sizeof(why)) == 0 &&
					strcmp(proof, again) != 0);
	CHECK("a long key", write(fd, "g", 1) == 1 &&
				    cl_prove(path, &c, proof, why, sizeof(why)) < 0);
	close(fd);
	unlink(path);
	rmdir(dir);
}

static int run_true(void)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		execl("/bin/true", "true", NULL);
		_exit(errno == EACCES ? 13 : 1);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int in_child(int (*wall)(void))
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0)
		_exit(run_true() == 0 && wall() == 0 ? run_true() : 99);
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void each_wall_alone_stops_programs(void)
{
	CHECK("a program runs before", run_true() == 0);
	CHECK("the namespace stops it", in_child(cl_noexec_namespace) == 13);
	CHECK("the filter stops it", in_child(cl_forbid_exec) == 13);
}

/* A disk that no driver serves says ENXIO; /dev/null in its place does not. */
#define DISK "/dev/cloister-unit-disk"

static int open_disk(void)
{
	int fd = open(DISK, O_WRONLY | O_APPEND);
	bool nothing = fd >= 0 && write(fd, "x", 1) == 1;

	if (fd >= 0)
		close(fd);
	return nothing ? 0 : errno;
}

static void the_namespace_covers_disks(void)
{
	pid_t pid;
	int status = -1;

	unlink(DISK);
	/* 240 to 254 are for local use: no driver has them here */
	CHECK("a disk", mknod(DISK, S_IFBLK | 0600, makedev(251, 251)) == 0);
	CHECK("is one before", open_disk() == ENXIO);
	pid = fork();
	if (pid == 0)
		_exit(cl_noexec_namespace() == 0 ? open_disk() : 99);
	waitpid(pid, &status, 0);
	CHECK("is none inside", WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK("is one outside", open_disk() == ENXIO);
	unlink(DISK);
}

/* Runs a check in a process of its own; it says what was not so by failing. */
static int alone(void (*check)(void))
{
	pid_t pid;
	int status = -1;

	fflush(stdout);
	if ((pid = fork()) == 0) {
		failed = 0;
		check();
		fflush(stdout);
		_exit(failed);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static ino_t inode(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? st.st_ino : 0;
}

static void a_task_in_the_view_has_no_way_back(void)
{
	char why[CL_WHY_BYTES] = "";
	struct rlimit core;
	ino_t mnt, ipc;
	int m, i;

	CHECK("a view", unshare(CLONE_NEWNS | CLONE_NEWIPC) == 0);
	m = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	i = open("/proc/self/ns/ipc", O_RDONLY | O_CLOEXEC);
	mnt = inode("/proc/self/ns/mnt");
	ipc = inode("/proc/self/ns/ipc");
	CHECK("somewhere else", unshare(CLONE_NEWNS | CLONE_NEWIPC) == 0 &&
					chdir("/tmp") == 0 &&
					inode("/proc/self/ns/mnt") != mnt);
	CHECK("it enters", cl_enter_view(m, i, why) == 0);
	CHECK("the mount namespace", inode("/proc/self/ns/mnt") == mnt);
	CHECK("the IPC namespace", inode("/proc/self/ns/ipc") == ipc);
	CHECK("both are closed", fcntl(m, F_GETFD) < 0 && fcntl(i, F_GETFD) < 0);
	CHECK("it left its directory", inode(".") == inode("/"));
	CHECK("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	for (int cap = 0; cap < 41; cap++)
		CHECK("an empty bounding set",
		      prctl(PR_CAPBSET_READ, cap, 0, 0, 0) <= 0);
	CHECK("no core dumps", getrlimit(RLIMIT_CORE, &core) == 0 &&
				       core.rlim_cur == 0 && core.rlim_max == 0);
	CHECK("it can still become the user", setregid(65534, 65534) == 0 &&
						      setreuid(65534, 65534) == 0);
}

/* As slurmstepd does for a step that joins: the view's files, no program. */
static void the_parent_of_a_step_sits_in_a_copy_of_the_view(void)
{
	ino_t mnt, root;
	int view;

	CHECK("a view", unshare(CLONE_NEWNS) == 0 &&
				mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
				mount("none", "/mnt", "tmpfs", 0, NULL) == 0);
	root = inode("/mnt");
	view = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	mnt = inode("/proc/self/ns/mnt");
	CHECK("outside", cl_noexec_namespace() == 0 && umount("/mnt") == 0 &&
				 inode("/mnt") != root);
	CHECK("it moves", cl_sit_in_view(view) == 0);
	CHECK("it sees the view's files", inode("/mnt") == root);
	CHECK("in a namespace of its own", inode("/proc/self/ns/mnt") != mnt);
	CHECK("nothing can be run", run_true() == 13);
	CHECK("the control groups", access("/sys/fs/cgroup", W_OK) == 0);
	CHECK("no namespace", cl_sit_in_view(-1) < 0);
}

static void a_view_that_is_none_is_refused(void)
{
	int m = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	int i = open("/dev/null", O_RDONLY | O_CLOEXEC);
	char why[CL_WHY_BYTES] = "";

	CHECK("it is refused", cl_enter_view(m, i, why) < 0);
	CHECK("its reason", strstr(why, "IPC namespace"));
	CHECK("both are closed", fcntl(m, F_GETFD) < 0 && fcntl(i, F_GETFD) < 0);
}

static void output_goes_to_ordinary_files_only(void)
{
	char dir[] = "/tmp/cloister-unit.XXXXXX", why[CL_WHY_BYTES];
	ino_t before = inode("/proc/self/fd/1");
	char text[8] = "";
	int fd;

	CHECK("a directory", mkdtemp(dir) && chdir(dir) == 0);
	CHECK("its content", mkfifo("fifo", 0600) == 0 &&
				     symlink("ok", "link") == 0 &&
				     mkdir("dir", 0700) == 0);
	CHECK("a FIFO", cl_take_stdio("ok", "fifo", "/", 1, why) < 0);
	CHECK("a symbolic link", cl_take_stdio("link", "ok", "/", 1, why) < 0);
	CHECK("a directory", cl_take_stdio("dir", "ok", "/", 1, why) < 0);
	CHECK("a device", cl_take_stdio("/dev/null", "ok", "/", 1, why) < 0);
	CHECK("nowhere", cl_take_stdio("none/ok", "ok", "/", 1, why) < 0);
	CHECK("its reason", strstr(why, "none/ok: No such file"));
	CHECK("no working directory", cl_take_stdio("ok", "ok", "none", 1, why) < 0);
	CHECK("nothing was changed", inode("/proc/self/fd/1") == before);

	fd = open("ok", O_WRONLY);
	CHECK("something is there", write(fd, "a", 1) == 1);
	close(fd);
	fflush(stdout);
	fd = dup(1);
	CHECK("it is taken", cl_take_stdio("ok", "err", "dir", 1, why) == 0);
	CHECK("written to", write(1, "b", 1) == 1 && write(2, "c", 1) == 1);
	dup2(fd, 1);
	CHECK("the working directory", inode(".") == inode("../dir"));
	CHECK("input is empty", read(0, text, 1) == 0);
	fd = open("../ok", O_RDONLY);
	CHECK("appended", read(fd, text, 8) == 2 && !strcmp(text, "ab"));
	CHECK("private", ({ struct stat st; stat("../err", &st); st.st_mode & 0777; }) == 0600);
	CHECK("cleaned", chdir(dir) == 0 && unlink("ok") == 0 && unlink("err") == 0 &&
				 unlink("fifo") == 0 && unlink("link") == 0 &&
				 rmdir("dir") == 0 && rmdir(dir) == 0);
}

static void a_socket_of_another_is_refused(void)
{
	struct timespec soon = cl_deadline(1);
	char why[CL_WHY_BYTES] = "";

	CHECK("no socket", cl_connect("/run/cloister-none.sock", &soon, why) < 0);
	CHECK("its reason", strstr(why, "No such file"));
	CHECK("no socket but a file", cl_connect("/etc/passwd", &soon, why) < 0);
	CHECK("its reason", strstr(why, "only root"));
}

int main(void)
{
	an_admission_is_read();
	an_odd_reply_is_refused();
	limits_hold();
	a_writer_stops_at_its_end();
	only_facts_of_slurm_stay();
	a_proven_step_keeps_its_own_variables();
	a_claim_is_the_same_whatever_the_order();
	a_proof_is_read_strictly();
	a_proof_needs_the_key();
	a_socket_of_another_is_refused();
	if (geteuid() != 0) {
		printf("unit: run me as root, the two walls are untested\n");
		return 1;
	}
	each_wall_alone_stops_programs();
	the_namespace_covers_disks();
	CHECK("the view", alone(a_task_in_the_view_has_no_way_back));
	CHECK("the parent", alone(the_parent_of_a_step_sits_in_a_copy_of_the_view));
	CHECK("no view", alone(a_view_that_is_none_is_refused));
	CHECK("output", alone(output_goes_to_ordinary_files_only));
	printf(failed ? "unit: FAILED\n" : "unit: ok\n");
	return failed;
}

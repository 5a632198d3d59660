/*
 * The plugin's own client for noded/handoff's tests.
 *
 *   handoff-client SOCKET [--script FILE] [--seconds N] NAME=VALUE...
 *
 * sends these fields as the request and prints what the answer says, one fact
 * a line. A line on standard input then sends ask=end with that status, and
 * its answer is printed too. Exit status 3: no answer, the reason on stdout.
 */
#define _GNU_SOURCE
#include "client.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const verdicts[] = {
	[CL_REFUSE] = "refuse", [CL_PASS] = "pass", [CL_ADMIT] = "admit", [CL_JOIN] = "join",
	[CL_RELEASED] = "released", [CL_FENCED] = "fenced",
};

static unsigned long inode(int fd)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static void print(const struct cl_answer *a)
{
	const struct cl_reply *r = &a->reply;

	printf("verdict %s\n", verdicts[r->verdict]);
	for (size_t i = 0; i < r->nmessages; i++)
		printf("message %s\n", r->messages[i]);
	for (size_t i = 0; i < r->nenv; i++)
		printf("env %s\n", r->env[i]);
	if (r->verdict == CL_ADMIT)
		printf("home %s\ncwd %s\nstdout %s\nstderr %s\nmnt %lu\nipc %lu\n",
		       r->home, r->cwd, r->out, r->err, inode(a->mount_ns),
		       inode(a->ipc_ns));
	if (r->verdict == CL_JOIN)
		printf("cwd %s\nmnt %lu\nipc %lu\n", r->cwd,
		       inode(a->mount_ns), inode(a->ipc_ns));
	printf("done\n");
	fflush(stdout);
}

static int give_up(const char *why)
{
	printf("error %s\n", why);
	return 3;
}

int main(int argc, char **argv)
{
	static struct cl_answer answer;
	static char buf[CL_DATAGRAM_MAX];
	char why[CL_WHY_BYTES], line[64];
	int script = -1, seconds = 10, sock;
	struct timespec deadline;
	struct cl_writer w;

	if (argc < 2)
		return 2;
	cl_begin(&w, buf, sizeof(buf));
	for (int i = 2; i < argc; i++) {
		char *equals = strchr(argv[i], '=');

		if (strcmp(argv[i], "--script") == 0 && i + 1 < argc) {
			script = open(argv[++i], O_RDONLY | O_CLOEXEC);
		} else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
			seconds = atoi(argv[++i]);
		} else if (equals) {
			*equals = '\0';
			cl_put(&w, argv[i], equals + 1);
		} else {
			return 2;
		}
	}
	deadline = cl_deadline(seconds);
	if ((sock = cl_connect(argv[1], &deadline, why)) < 0 ||
	    cl_ask(sock, &w, script, CL_ASK_LAUNCH, &deadline, &answer, why) < 0)
		return give_up(why);
	print(&answer);
	if (!fgets(line, sizeof(line), stdin))
		return 0;
	line[strcspn(line, "\n")] = '\0';
	deadline = cl_deadline(seconds);
	cl_begin(&w, buf, sizeof(buf));
	cl_put(&w, "ask", "end");
	cl_put(&w, "status", line);
	if (cl_ask(sock, &w, -1, CL_ASK_END, &deadline, &answer, why) < 0)
		return give_up(why);
	print(&answer);
	return 0;
}

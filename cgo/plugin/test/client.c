/*
 * Tests of the client against peers that it must not trust or that keep it
 * waiting; what a peer may say is the fuzz target's (fuzz-client.c).
 */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed;
static char dir[] = "/tmp/cloister-client.XXXXXX";
static struct sockaddr_un at = { .sun_family = AF_UNIX };

static void check(const char *what, int ok)
{
	if (!ok) {
		printf("client: not so: %s\n", what);
		failed = 1;
	}
}

static int bound(mode_t mode)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	unlink(at.sun_path);
	check("a socket", bind(sock, (struct sockaddr *)&at, sizeof(at)) == 0 &&
				  chmod(at.sun_path, mode) == 0);
	return sock;
}

static long milliseconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - then->tv_sec) * 1000 +
	       (now.tv_nsec - then->tv_nsec) / 1000000;
}

/* Connects with a second's patience; says whether it failed as it must. */
static int refused(const char *path, const char *because)
{
	struct timespec soon = cl_deadline(1);
	char why[CL_WHY_BYTES] = "";
	int sock = cl_connect(path, &soon, why);

	if (sock >= 0)
		close(sock);
	if (sock < 0 && strstr(why, because))
		return 1;
	printf("client: connected, or another reason: %d, %s\n", sock, why);
	return 0;
}

static void a_socket_that_others_can_use_is_not_trusted(void)
{
	int sock = bound(0666);

	check("listening", listen(sock, 1) == 0);
	check("a socket for all is refused", refused(at.sun_path, "only root"));
	check("another mode", chmod(at.sun_path, 0600) == 0 &&
				      chown(at.sun_path, 65534, 0) == 0);
	check("another's socket is refused", refused(at.sun_path, "only root"));
	check("root's own again", chown(at.sun_path, 0, 0) == 0);
	struct timespec soon = cl_deadline(1);
	char why[CL_WHY_BYTES] = "";
	int ours = cl_connect(at.sun_path, &soon, why);

	check("root's own is trusted", ours >= 0);
	close(ours);
	close(sock);
}

/* The kernel notes who listens at listen(2), whoever made the socket. */
static void a_listener_that_is_not_root_is_not_trusted(void)
{
	int sock = bound(0600), status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(setresuid(65534, 65534, 65534) || listen(sock, 1));
	waitpid(pid, &status, 0);
	check("somebody listens", WIFEXITED(status) && WEXITSTATUS(status) == 0);
	check("who is not root", refused(at.sun_path, "listener is not root"));
	close(sock);
}

static void what_is_no_socket_or_too_far_away_is_refused(void)
{
	char path[sizeof(at.sun_path) + 8];

	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	check("a path that no socket has", refused(path, "too long"));
	check("nothing there", refused("/run/cloister-none.sock", "No such file"));
	check("a file", refused("/etc/passwd", "only root"));
	close(bound(0600));
	check("nobody listens", refused(at.sun_path, "refused"));
}

static void a_full_queue_and_a_silent_peer_end_at_the_deadline(void)
{
	static struct cl_answer answer;
	struct timespec began = cl_deadline(0), soon = cl_deadline(5);
	char why[CL_WHY_BYTES] = "", buf[64];
	int sock = bound(0600), first;
	struct cl_writer w;

	check("listening", listen(sock, 0) == 0);
	first = cl_connect(at.sun_path, &soon, why);
	check("the first has room", first >= 0);
	check("the next has none", refused(at.sun_path, "temporarily unavailable"));
	check("and waited a second", milliseconds_since(&began) >= 900);

	cl_begin(&w, buf, sizeof(buf));
	cl_put(&w, "ask", "launch");
	began = cl_deadline(0);
	soon = cl_deadline(1);
	check("nobody answers", cl_ask(first, &w, -1, CL_ASK_LAUNCH, &soon,
				       &answer, why) < 0 &&
					strstr(why, "waiting for an answer"));
	check("for a second", milliseconds_since(&began) >= 900 &&
				      milliseconds_since(&began) < 5000);
	close(first);
	close(sock);
}

/* A listener that is killed once it has taken the connection: with the request
 * read, and with the request still unread. */
static void a_listener_that_dies_is_told_from_other_failures(void)
{
	static struct cl_answer answer;

	for (int reads = 1; reads >= 0; reads--) {
		struct timespec soon = cl_deadline(5);
		char why[CL_WHY_BYTES] = "", buf[64], got[64];
		int sock = bound(0600), mine, status;
		struct cl_writer w;
		pid_t pid;

		check("listening", listen(sock, 1) == 0);
		mine = cl_connect(at.sun_path, &soon, why);
		check("connected", mine >= 0);
		cl_begin(&w, buf, sizeof(buf));
		cl_put(&w, "ask", "launch");
		pid = fork();
		if (pid == 0) {
			struct pollfd p = { .events = POLLIN };

			close(mine);
			p.fd = accept(sock, NULL, NULL);
			poll(&p, 1, 5000);
			if (reads)
				(void)!recv(p.fd, got, sizeof(got), 0);
			raise(SIGKILL);
		}
		close(sock);
		check("the listener is lost",
		      cl_ask(mine, &w, -1, CL_ASK_LAUNCH, &soon, &answer,
			     why) == CL_HUNG_UP && why[0]);
		check("it was killed", waitpid(pid, &status, 0) == pid &&
					       WIFSIGNALED(status));
		close(mine);
	}
}

/* A peer that reads nothing must not hold the sender for ever. */
static void a_request_that_nobody_reads_ends_at_the_deadline(void)
{
	static struct cl_answer answer;
	static char buf[CL_DATAGRAM_MAX], value[60000];
	struct timespec soon = cl_deadline(2), now = cl_deadline(0);
	char why[CL_WHY_BYTES] = "";
	int sock = bound(0600), mine, rc = 0, tries = 0;
	struct cl_writer w;

	check("listening", listen(sock, 1) == 0);
	mine = cl_connect(at.sun_path, &soon, why);
	check("connected", mine >= 0);
	memset(value, 'x', sizeof(value) - 1);
	cl_begin(&w, buf, sizeof(buf));
	cl_put(&w, "arg", value);
	do {
		rc = cl_ask(mine, &w, -1, CL_ASK_LAUNCH, &now, &answer, why);
	} while (rc < 0 && !strstr(why, "sending") && ++tries < 100);
	check("the socket is full", rc < 0 && strstr(why, "sending the request"));
	close(mine);
	close(sock);
}

int main(void)
{
	if (geteuid() != 0 || !mkdtemp(dir)) {
		printf("client: run me as root\n");
		return 1;
	}
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/s", dir);
	a_socket_that_others_can_use_is_not_trusted();
	a_listener_that_is_not_root_is_not_trusted();
	what_is_no_socket_or_too_far_away_is_refused();
	a_full_queue_and_a_silent_peer_end_at_the_deadline();
	a_listener_that_dies_is_told_from_other_failures();
	a_request_that_nobody_reads_ends_at_the_deadline();
	unlink(at.sun_path);
	rmdir(dir);
	printf(failed ? "client: FAILED\n" : "client: ok\n");
	return failed;
}

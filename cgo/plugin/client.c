#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* The kernel passes at most this many descriptors at once (SCM_MAX_FD). */
enum { DESCRIPTORS_MAX = 253 };

static int fail(char *why, const char *what)
{
	snprintf(why, CL_WHY_BYTES, "%s: %s", what, strerror(errno));
	return -1;
}

/* A call on the socket failed: noded is gone, or something else is wrong. */
static int lost(char *why, const char *what)
{
	bool hung_up = errno == EPIPE || errno == ECONNRESET;

	fail(why, what);
	return hung_up ? CL_HUNG_UP : -1;
}

static int odd(char *why, const char *what)
{
	snprintf(why, CL_WHY_BYTES, "%s", what);
	return -1;
}

struct timespec cl_deadline(int seconds)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += seconds;
	return t;
}

static int milliseconds_left(const struct timespec *deadline)
{
	struct timespec now;
	long long ms;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ms = (deadline->tv_sec - now.tv_sec) * 1000LL +
	     (deadline->tv_nsec - now.tv_nsec) / 1000000;
	return ms > 0 ? (int)ms : 0;
}

/* Waits until the socket is ready for `events`. -1 with errno at the end. */
static int ready(int sock, short events, const struct timespec *deadline)
{
	for (;;) {
		struct pollfd p = { .fd = sock, .events = events };
		int n = poll(&p, 1, milliseconds_left(deadline));

		if (n > 0)
			return 0;
		if (n == 0) {
			errno = ETIMEDOUT;
			return -1;
		}
		if (errno != EINTR)
			return -1;
	}
}

static int owned_by_root(const char *path, char *why)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return fail(why, path);
	if (!S_ISSOCK(st.st_mode) || st.st_uid != 0 || (st.st_mode & 0077))
		return odd(why, "the socket is not one that only root can use");
	return 0;
}

static int peer_is_root(int sock, char *why)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return fail(why, "asking who listens");
	if (peer.uid != 0)
		return odd(why, "the socket's listener is not root");
	return 0;
}

int cl_connect(const char *path, const struct timespec *deadline, char *why)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int sock;

	if (strlen(path) >= sizeof(to.sun_path))
		return odd(why, "the socket's path is too long");
	memcpy(to.sun_path, path, strlen(path) + 1);
	if (owned_by_root(path, why) < 0)
		return -1;
	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0)
		return fail(why, "making a socket");
	while (connect(sock, (struct sockaddr *)&to, sizeof(to)) < 0) {
		/* EAGAIN: the listener's queue is full; unix(7) gives no event
		 * for the room, so try again a little later */
		if ((errno != EAGAIN && errno != EINTR) ||
		    milliseconds_left(deadline) == 0) {
			fail(why, path);
			close(sock);
			return -1;
		}
		usleep(20000);
	}
	if (peer_is_root(sock, why) < 0) {
		close(sock);
		return -1;
	}
	return sock;
}

static int send_request(int sock, const struct cl_writer *w, int file,
			const struct timespec *deadline, char *why)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { w->buf, w->len };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (w->failed)
		return odd(why, "the step's arguments do not fit into a request");
	if (file >= 0) {
		struct cmsghdr *c;

		m.msg_control = control.room;
		m.msg_controllen = sizeof(control.room);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &file, sizeof(int));
	}
	for (;;) {
		ssize_t n = sendmsg(sock, &m, MSG_NOSIGNAL);

		if (n == (ssize_t)w->len)
			return 0;
		if (n >= 0)
			return odd(why, "the request was cut short");
		if (errno == EAGAIN && ready(sock, POLLOUT, deadline) == 0)
			continue;
		if (errno != EINTR)
			return lost(why, "sending the request");
	}
}

/* Collects every descriptor of the message; those past `max` are closed. */
static size_t descriptors(struct msghdr *m, int *fds, size_t max)
{
	size_t got = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (got < max)
				fds[got] = fd;
			else
				close(fd);
			got++;
		}
	}
	return got;
}

static bool is_namespace(int fd, int type)
{
	return ioctl(fd, NS_GET_NSTYPE) == type;
}

static int receive(int sock, struct cl_answer *a, size_t *len, size_t *nfds,
		   const struct timespec *deadline, char *why)
{
	union {
		char room[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { a->datagram, sizeof(a->datagram) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1,
			    .msg_control = control.room,
			    .msg_controllen = sizeof(control.room) };
	int fds[2] = { -1, -1 };
	ssize_t n;

	do {
		if (ready(sock, POLLIN, deadline) < 0)
			return fail(why, "waiting for an answer");
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
	} while (n < 0 && (errno == EINTR || errno == EAGAIN));
	if (n < 0)
		return lost(why, "reading the answer");
	*len = (size_t)n;
	*nfds = descriptors(&m, fds, 2);
	a->mount_ns = fds[0];
	a->ipc_ns = fds[1];
	if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return odd(why, "the answer is too long");
	if (n == 0) {
		odd(why, "cloister-noded hung up without an answer");
		return CL_HUNG_UP;
	}
	return 0;
}

static int checked(struct cl_answer *a, size_t len, size_t nfds,
		   enum cl_ask ask, char *why)
{
	const char *reason;

	if (cl_parse_reply(a->datagram, len, ask, &a->reply, &reason) < 0)
		return odd(why, reason);
	if (nfds != (a->reply.verdict == CL_ADMIT ||
			     a->reply.verdict == CL_JOIN ? 2 : 0))
		return odd(why, "the answer has the wrong number of descriptors");
	if (nfds && !(is_namespace(a->mount_ns, CLONE_NEWNS) &&
		      is_namespace(a->ipc_ns, CLONE_NEWIPC)))
		return odd(why, "the answer's descriptors are no namespaces");
	return 0;
}

int cl_ask(int sock, const struct cl_writer *request, int file,
	   enum cl_ask ask, const struct timespec *deadline,
	   struct cl_answer *a, char *why)
{
	size_t len = 0, nfds = 0;
	int rc;

	a->mount_ns = a->ipc_ns = -1;
	if ((rc = send_request(sock, request, file, deadline, why)) == 0 &&
	    (rc = receive(sock, a, &len, &nfds, deadline, why)) == 0 &&
	    (rc = checked(a, len, nfds, ask, why)) == 0)
		return 0;
	if (a->mount_ns >= 0)
		close(a->mount_ns);
	if (a->ipc_ns >= 0)
		close(a->ipc_ns);
	a->mount_ns = a->ipc_ns = -1;
	return rc;
}

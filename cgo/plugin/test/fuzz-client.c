/*
 * libFuzzer target: the client against a hostile listener. It connects to a
 * real socket, asks, and gets what the input says: any datagram, any number of
 * descriptors of any kind, an end, silence.
 *
 * The input: a byte of enum behaviour, the number of descriptors, the kinds of
 * the first and the second, then the datagram.
 */
#define _GNU_SOURCE
#include "client.h"
#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum behaviour {
	ASK_END = 1,      /* ask=end, else ask=launch */
	SILENT = 2,       /* no answer before the deadline */
	HANG_UP = 4,      /* nor ever */
	WITH_FILE = 8,    /* the request brings a file */
	FULL_WRITER = 16, /* the request did not fit */
	PADDED = 32,      /* an answer longer than any may be */
	SCARCE = 64,      /* no descriptor can be had for what is passed */
};

enum {
	HEADER = 4,
	PASSED_MAX = 253, /* SCM_MAX_FD, unix(7) */
	PAD_BYTES = CL_DATAGRAM_MAX + 1,
	LOOKED_AT = 320, /* descriptors; the harness has few, so all passed ones fit */
};

static char dir[] = "/tmp/cloister-fuzz.XXXXXX";
static struct sockaddr_un at = { .sun_family = AF_UNIX };
static int listener, script;
static int kinds[8];
static pid_t owner;

static void clean(void)
{
	if (getpid() != owner)
		return;
	unlink(at.sun_path);
	rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char *const files[] = { "/proc/self/ns/mnt",
		"/proc/self/ns/ipc", "/dev/null", "/", "/proc/self/ns/net" };
	int ends[2];

	(void)argc, (void)argv;
	require(geteuid() == 0, "run me as root: the client trusts no other listener");
	for (size_t i = 0; i < 5; i++)
		kinds[i] = open(files[i], O_RDONLY | O_CLOEXEC);
	require(pipe2(ends, O_CLOEXEC) == 0, "a pipe");
	kinds[5] = ends[0];
	kinds[6] = ends[1];
	kinds[7] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (size_t i = 0; i < 8; i++)
		require(kinds[i] >= 0, "something to pass");
	script = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	owner = getpid();
	require(mkdtemp(dir) != NULL && atexit(clean) == 0, "a directory");
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/s", dir);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	umask(0077);
	require(bind(listener, (struct sockaddr *)&at, sizeof(at)) == 0 &&
			listen(listener, 4) == 0, "a listener");
	return 0;
}

static size_t open_descriptors(void)
{
	size_t n = 0;

	for (int fd = 0; fd < LOOKED_AT; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Sends the answer before it is asked for: nobody has to wait then. */
static void answer(int peer, const uint8_t *data, size_t size)
{
	static char padded[PAD_BYTES];
	union {
		char room[CMSG_SPACE(sizeof(int) * PASSED_MAX)];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { (void *)(data + HEADER), size - HEADER };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t n = data[1] <= PASSED_MAX ? data[1] : PASSED_MAX;
	int passed[PASSED_MAX];

	for (size_t i = 0; i < n; i++)
		passed[i] = kinds[data[2 + i % 2] % 8];
	if (n) {
		struct cmsghdr *c;

		m.msg_control = control.room;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), passed, n * sizeof(int));
	}
	if (data[0] & PADDED) {
		memset(padded, 0, sizeof(padded));
		memcpy(padded, iov.iov_base,
		       iov.iov_len < PAD_BYTES ? iov.iov_len : PAD_BYTES);
		iov = (struct iovec){ padded, PAD_BYTES };
	}
	require(sendmsg(peer, &m, MSG_NOSIGNAL) == (ssize_t)iov.iov_len,
		"the harness answers");
}

static bool is_namespace(int fd, int type)
{
	return ioctl(fd, NS_GET_NSTYPE) == type &&
	       fcntl(fd, F_GETFD) == FD_CLOEXEC;
}

static void check_taken(const struct cl_answer *a, uint8_t behaviour)
{
	bool admitted = a->reply.verdict == CL_ADMIT ||
			a->reply.verdict == CL_JOIN;

	require(!(behaviour & (SILENT | HANG_UP | FULL_WRITER | PADDED)),
		"no answer is taken where there is none");
	if (!admitted) {
		require(a->mount_ns == -1 && a->ipc_ns == -1,
			"namespaces with admit only");
		return;
	}
	require(is_namespace(a->mount_ns, CLONE_NEWNS) &&
			is_namespace(a->ipc_ns, CLONE_NEWIPC),
		"the two namespaces, not inherited by programs");
	close(a->mount_ns);
	close(a->ipc_ns);
}

/* The listener gets the request as it was written, with the file or none. */
static void check_request(int peer, const struct cl_writer *w, bool file)
{
	static char got[CL_DATAGRAM_MAX];
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { got, sizeof(got) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1,
			    .msg_control = control.room,
			    .msg_controllen = sizeof(control.room) };
	ssize_t n = recvmsg(peer, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	int fd;

	if (w->failed) {
		require(n <= 0, "a request that did not fit is not sent");
		return;
	}
	require(n == (ssize_t)w->len && memcmp(got, w->buf, w->len) == 0,
		"the request arrives");
	require((c != NULL) == file, "the file comes with it");
	if (c) {
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		close(fd);
	}
}

static void limit_descriptors(rlim_t n)
{
	struct rlimit r;

	require(getrlimit(RLIMIT_NOFILE, &r) == 0, "the limit");
	r.rlim_cur = n;
	require(setrlimit(RLIMIT_NOFILE, &r) == 0, "another limit");
}

static rlim_t descriptors_limit(void)
{
	struct rlimit r;

	require(getrlimit(RLIMIT_NOFILE, &r) == 0, "the limit");
	return r.rlim_cur;
}

static void ask(int sock, int peer, uint8_t behaviour)
{
	static struct cl_answer a;
	static char buf[CL_DATAGRAM_MAX];
	struct timespec now = cl_deadline(0);
	char why[CL_WHY_BYTES] = "";
	struct cl_writer w;
	rlim_t before = descriptors_limit();
	enum cl_ask what = behaviour & ASK_END ? CL_ASK_END : CL_ASK_LAUNCH;
	int rc;

	cl_begin(&w, buf, behaviour & FULL_WRITER ? 3 : sizeof(buf));
	cl_put(&w, "ask", behaviour & ASK_END ? "end" : "launch");
	cl_put_number(&w, "status", behaviour);
	if (behaviour & SCARCE)
		limit_descriptors((rlim_t)peer + 2);
	rc = cl_ask(sock, &w, behaviour & WITH_FILE ? script : -1, what, &now,
		    &a, why);
	limit_descriptors(before);
	if (rc == 0) {
		check_taken(&a, behaviour);
	} else {
		require(why[0] && memchr(why, 0, sizeof(why)),
			"a failure has a reason");
		require(rc == -1 || (rc == CL_HUNG_UP &&
				     (behaviour & HANG_UP ||
				      strstr(why, "without an answer"))),
			"only an end is one");
		require(a.mount_ns == -1 && a.ipc_ns == -1,
			"a failure leaves no namespace");
	}
	if (!(behaviour & HANG_UP))
		check_request(peer, &w, behaviour & WITH_FILE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct timespec now = cl_deadline(0);
	char why[CL_WHY_BYTES] = "";
	size_t before = open_descriptors();
	int sock, peer;

	if (size < HEADER || size - HEADER > CL_DATAGRAM_MAX)
		return -1; /* not for the corpus */
	sock = cl_connect(at.sun_path, &now, why);
	require(sock >= 0 && fcntl(sock, F_GETFD) == FD_CLOEXEC, why);
	peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	require(peer >= 0, "the harness accepts");
	if (!(data[0] & (SILENT | HANG_UP)))
		answer(peer, data, size);
	if (data[0] & HANG_UP)
		close(peer);
	ask(sock, peer, data[0]);
	close(sock);
	if (!(data[0] & HANG_UP))
		close(peer);
	require(open_descriptors() == before, "no descriptor is left open");
	return 0;
}

#define _GNU_SOURCE
#include "proof.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* EVP_Q_mac(3) of OpenSSL 3. */
typedef unsigned char *(*mac_function)(void *library, const char *name,
				       const char *properties,
				       const char *algorithm, const void *params,
				       const void *key, size_t key_bytes,
				       const unsigned char *data, size_t n,
				       unsigned char *out, size_t room,
				       size_t *out_bytes);

static int fail(char *why, size_t room, const char *what, const char *cause)
{
	snprintf(why, room, "%s: %s", what, cause);
	return -1;
}

/* Opened here and never in slurmstepd, which gets no library of ours. */
static mac_function find_mac(char *why, size_t room)
{
	void *crypto = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
	mac_function mac = NULL;

	if (crypto)
		*(void **)&mac = dlsym(crypto, "EVP_Q_mac");
	if (!mac)
		fail(why, room, "OpenSSL 3 is needed for steps", dlerror());
	return mac;
}

static int read_key(const char *path, unsigned char *key, char *why, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	unsigned char more;
	ssize_t n;

	if (fd < 0 && errno == ENOENT)
		return 1;
	if (fd < 0)
		return fail(why, room, path, strerror(errno));
	n = read(fd, key, CL_STEP_KEY_BYTES);
	if (n == CL_STEP_KEY_BYTES && read(fd, &more, 1) != 0)
		n = -1;
	close(fd);
	return n == CL_STEP_KEY_BYTES ? 0 : fail(why, room, path, "not a key");
}

static int seal(const unsigned char *key, const struct cl_claim *claim,
		unsigned char *mac, char *why, size_t room)
{
	mac_function hmac = find_mac(why, room);
	char *bytes;
	size_t got = 0;
	ssize_t n;

	if (!hmac)
		return -1;
	if ((n = cl_claim_write(claim, &bytes)) < 0)
		return fail(why, room, "the step", "its arguments and environment are too long");
	if (!hmac(NULL, "HMAC", NULL, "SHA256", NULL, key, CL_STEP_KEY_BYTES,
		  (unsigned char *)bytes, (size_t)n, mac, CL_MAC_BYTES, &got))
		got = 0;
	free(bytes);
	return got == CL_MAC_BYTES ? 0 : fail(why, room, "OpenSSL", "no HMAC-SHA256");
}

int cl_prove(const char *path, struct cl_claim *claim,
	     char proof[CL_PROOF_BYTES_MAX + 1], char *why, size_t room)
{
	unsigned char key[CL_STEP_KEY_BYTES], nonce[CL_NONCE_BYTES],
		mac[CL_MAC_BYTES];
	char text[2 * CL_MAC_BYTES + 1];
	int rc = read_key(path, key, why, room);

	if (rc != 0)
		return rc;
	if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce)) {
		rc = fail(why, room, "getrandom", strerror(errno));
	} else {
		cl_hex(nonce, sizeof(nonce), claim->nonce);
		rc = seal(key, claim, mac, why, room);
	}
	explicit_bzero(key, sizeof(key));
	if (rc < 0)
		return rc;
	cl_hex(mac, sizeof(mac), text);
	if (strlen(claim->cwd) > CL_PATH_BYTES_MAX)
		return fail(why, room, "the working directory", "its path is too long");
	snprintf(proof, CL_PROOF_BYTES_MAX + 1, "1:%s:%s:%s", claim->nonce, text,
		 claim->cwd);
	return 0;
}

#define _GNU_SOURCE
#include "beside.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

void cl_beside_failed(char *why, size_t size)
{
	snprintf(why, size, "%s", dlerror());
}

void *cl_open_beside(const char *file, char *why, size_t size)
{
	char path[PATH_MAX];
	Dl_info self;
	const char *slash;
	void *library;

	if (!dladdr((void *)cl_open_beside, &self) || !self.dli_fname ||
	    !(slash = strrchr(self.dli_fname, '/')) ||
	    (size_t)snprintf(path, sizeof(path), "%.*s/%s",
			     (int)(slash - self.dli_fname), self.dli_fname,
			     file) >= sizeof(path)) {
		snprintf(why, size, "the plugin does not know where it is");
		return NULL;
	}
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		cl_beside_failed(why, size);
	return library;
}

/* What the fuzz targets share: libFuzzer's entry points and a loud end. */
#ifndef CLOISTER_FUZZ_H
#define CLOISTER_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void require(int ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "fuzz: broken: %s\n", what);
		abort();
	}
}

#endif

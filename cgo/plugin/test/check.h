/* What a test program demands. It ends with `failed`. */
#ifndef CLOISTER_TEST_CHECK_H
#define CLOISTER_TEST_CHECK_H

#include <stdio.h>

static int failed;

#define CHECK(what, ok)                                                  \
	do {                                                             \
		if (!(ok)) {                                             \
			printf("%s:%d: not so: %s\n", __FILE__, __LINE__, what); \
			failed = 1;                                      \
		}                                                        \
	} while (0)

#endif

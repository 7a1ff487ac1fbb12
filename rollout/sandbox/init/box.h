/* What all roles of rollout-box share: saying why it ends, retrying, cleaning up. */
#pragma once

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Prints `rollout-box: what` and ends. Use %m in the format for the reason. */
#define die(fmt, ...)                                                          \
	do {                                                                   \
		fprintf(stderr, "rollout-box: " fmt "\n", ##__VA_ARGS__);      \
		exit(1);                                                       \
	} while (0)

/* Repeats a system call that a signal cut short. */
#define RETRY(call)                                                            \
	({                                                                     \
		long _done;                                                    \
		do {                                                           \
			_done = (long)(call);                                  \
		} while (_done == -1 && errno == EINTR);                       \
		_done;                                                         \
	})

static inline void cleanup_fd(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

static inline void cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

#define _cleanup_fd_ __attribute__((cleanup(cleanup_fd)))
#define _cleanup_free_ __attribute__((cleanup(cleanup_free)))

int init_main(void);

/* weaken.c, for tests alone */
#ifdef ROLLOUT_WEAKEN
extern const char *weakened;
_Bool init_weak(const char *wall);
#else
#define init_weak(wall) 0
#endif

/* Error texts: what failed, in words, and what the kernel said. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

char trouble[512];

int failed(const char *format, ...)
{
	int error = errno;
	va_list args;
	va_start(args, format);
	int used = vsnprintf(trouble, sizeof trouble, format, args);
	va_end(args);
	if (error && used >= 0 && (size_t)used < sizeof trouble)
		snprintf(trouble + used, sizeof trouble - (size_t)used, ": %s", strerror(error));
	for (char *c = trouble; *c; c++)
		if (*c == '\n' || *c == '\t')
			*c = ' ';
	return -1;
}

int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return failed("open %s", path);
	ssize_t written = write(fd, text, strlen(text));
	if (written < 0)
		failed("write '%s' to %s", text, path);
	close(fd);
	return written < 0 ? -1 : 0;
}

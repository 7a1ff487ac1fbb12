/* The step from init to a process of the sandbox. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif
#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

/*
 * A terminal: our end, and in *terminal the process's, or -1. The other end comes through our own
 * descriptor and never through a name that the sandbox could have replaced.
 */
int pty_open(const struct user *user, uint16_t rows, uint16_t cols, int *terminal)
{
	struct winsize window = { .ws_row = rows, .ws_col = cols };
	int flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
	int ours = open("/dev/ptmx", flags | O_NONBLOCK), unlocked = 0;

	if (ours < 0)
		ours = open("/dev/pts/ptmx", flags | O_NONBLOCK);
	if (ours < 0)
		return -1;
	if (ioctl(ours, TIOCSPTLCK, &unlocked) ||
	    (*terminal = ioctl(ours, TIOCGPTPEER, flags)) < 0) {
		cleanup_fd(&ours);
		return -1;
	}
	ioctl(ours, TIOCSWINSZ, &window);
	if (!user->stay && fchown(*terminal, user->uid, (gid_t)-1))
		return ours; /* it works all the same, only not opened anew by its name */
	return ours;
}

/* ---- in the child, which shares our memory until execve: no malloc, nothing that is not undone */

static _Noreturn void give_up(struct spawn *spawn, const char *step)
{
	spawn->error = errno;
	spawn->failed_at = step;
	_exit(127);
}

static int become(const struct user *user)
{
	if (user->stay)
		return 0;
	/* The bare system calls: a libc would tell threads that we do not have. */
	if (syscall(SYS_setgroups, user->group_count, user->groups) ||
	    syscall(SYS_setresgid, user->gid, user->gid, user->gid) ||
	    syscall(SYS_setresuid, user->uid, user->uid, user->uid))
		return -1;
	return 0;
}

/* A script without #! is run by the shell, as every shell does. */
static void run_file(struct spawn *spawn, const char *file)
{
	char *first = spawn->argv[0];

	execve(file, spawn->argv, spawn->env);
	if (errno != ENOEXEC)
		return;
	spawn->argv[-1] = (char *)"sh";
	spawn->argv[0] = (char *)file;
	execve("/bin/sh", spawn->argv - 1, spawn->env);
	spawn->argv[0] = first;
}

static void search_and_run(struct spawn *spawn)
{
	const char *name = spawn->argv[0], *dir = spawn->path;
	size_t name_length = strlen(name);
	char file[PATH_MAX];
	int denied = 0;

	if (!*name) {
		errno = ENOENT;
		return;
	}
	if (strchr(name, '/')) {
		run_file(spawn, name);
		return;
	}
	for (;;) {
		size_t length = strcspn(dir, ":");

		if (length + name_length + 2 <= sizeof(file)) {
			char *end = mempcpy(file, length ? dir : ".", length ? length : 1);

			*end++ = '/';
			memcpy(end, name, name_length + 1);
			run_file(spawn, file);
			if (errno == EACCES)
				denied = EACCES;
			else if (errno != ENOENT && errno != ENOTDIR)
				return;
		}
		if (!dir[length])
			break;
		dir += length + 1;
	}
	errno = denied ? denied : ENOENT;
}

static _Noreturn void child(struct spawn *spawn)
{
	sigset_t none;

	setsid();
	if (dup2(spawn->in, 0) < 0 || dup2(spawn->out, 1) < 0 || dup2(spawn->err, 2) < 0)
		give_up(spawn, "standard descriptors");
	if (spawn->pty && ioctl(0, TIOCSCTTY, 0))
		give_up(spawn, "controlling terminal");
	/* Still root here: a user may work in a folder that he could not enter by himself. */
	if (chdir(spawn->cwd))
		give_up(spawn, spawn->cwd);
	if (become(spawn->user))
		give_up(spawn, "becoming the user");
	umask(022);
	setrlimit(RLIMIT_NOFILE, &box.nofile);
	if (!init_weak("descriptors"))
		syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	search_and_run(spawn);
	give_up(spawn, NULL);
}

/* Starts it and waits until it runs or cannot: errors come back through the shared memory. */
pid_t spawn_process(struct spawn *spawn)
{
	pid_t pid;

	spawn->error = 0;
	spawn->failed_at = NULL;
	oom_score_set(OOM_SCORE_CHILD);
	pid = vfork();
	if (pid == 0)
		child(spawn);
	oom_score_set(box.oom_score_own);
	if (pid < 0)
		spawn->error = errno;
	return pid;
}

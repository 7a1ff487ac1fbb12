/* rollout-box launch OWNER_FOLDER [PATH TO KEEP MOUNTED]...
 *
 * Lines in, split at tabs:                    Lines out:
 *   create ID key=value ... (request.c)         ok ID PID SCRATCH_FD | error ID TEXT
 *   kill ID                                     exited ID STATUS, once for each that was ok
 *   unmount ID  kills it, and tells once its mounts are gone too
 *   stop ID, continue ID  all its processes     signaled ID TROUBLE
 *   forget ID  closes its scratch
 *   room NAME key=value ...  makes a room ahead (rooms.c), for a `create` with room=NAME
 *   drop NAME                               dropped NAME WHY, also if it was not ready in time
 *   volume IMAGE  mounts a btrfs image       volume FD | volume -1 TEXT
 *          in place of the one before; `-` mounts none
 * The first line out is `ready` or `error - TEXT`.
 *
 * One thread, for the death signal of its sandboxes is tied to the thread that made them. Nothing
 * here waits for a sandbox: it is made by its own clone while the next line is read. The launcher
 * and all its sandboxes end when stdin does, or the process that started it. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STARTING_AT_ONCE 64
#define LINE_BYTES (256 * 1024)
#define END_WAIT_MS 10000

enum state { STARTING, LIVE, FAILED, ENDED };

struct box {
	char id[72];
	enum state state;
	pid_t pid;
	int ready;   /* while STARTING */
	int scratch; /* mount of its tmpfs, or -1 */
	int devices; /* number of its /dev */
	int mounts;  /* its mount namespace, held while it is being killed; else -1 */
	char *error; /* once FAILED */
};

static struct box *boxes;
static int box_count, box_room;
static int starting;
static struct launcher self;

static struct box *find_box(const char *id)
{
	for (int i = 0; i < box_count; i++)
		if (!strcmp(boxes[i].id, id))
			return &boxes[i];
	return NULL;
}

static struct box *add_box(const struct request *r, pid_t pid, int ready)
{
	if (box_count == box_room) {
		box_room = box_room ? 2 * box_room : 64;
		boxes = realloc(boxes, (size_t)box_room * sizeof *boxes);
		if (!boxes)
			abort();
	}
	struct box *box = &boxes[box_count++];
	*box = (struct box){.state = STARTING, .pid = pid, .ready = ready, .scratch = r->scratch,
			    .devices = r->devices, .mounts = -1};
	snprintf(box->id, sizeof box->id, "%s", r->id);
	starting++;
	return box;
}

static void drop_box(struct box *box)
{
	if (box->scratch >= 0)
		close(box->scratch);
	free(box->error);
	*box = boxes[--box_count];
}

/* ---------------------------------------------------------------- create */

static int find_maps(struct stack *stack, uint32_t onto)
{
	for (int i = 0; i < stack->count; i++) {
		struct layer *layer = &stack->at[i];
		if (layer->owner != onto && (layer->map = map_ids(layer->owner, onto)) < 0)
			return -1;
	}
	return 0;
}

int find_all_maps(struct request *r)
{
	r->userns = map_ids(0, r->uids);
	return r->userns < 0 || find_maps(&r->root, r->uids) || find_maps(&r->usr, r->uids) ? -1 : 0;
}

static int prepare(struct request *r)
{
	if (make_cgroups(r) || take_room(r))
		return -1;
	if (r->room.mounts >= 0)
		return 0;
	if (find_all_maps(r) || open_scratch(r))
		return -1;
	r->network = r->host_network ? -1 : take_spare_network();
	if (r->network < 0 && own_proc())
		return -1;
	return take_devices(r) || take_spare_scratch(r) ? -1 : 0;
}

static uint64_t spaces_of_a_room(const struct request *r)
{
	bool own_network = r->network < 0 && !r->host_network;
	return CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (own_network ? CLONE_NEWNET : 0);
}

static int spawn(const struct request *r)
{
	int ready[2];
	struct clone_args args = {
		.flags = (CLONE_NEWPID | (r->cgroup ? CLONE_INTO_CGROUP : 0) |
			  (r->room.mounts >= 0 ? 0 : spaces_of_a_room(r))) &
			 ~shared_namespaces(r),
		.exit_signal = SIGCHLD,
		.cgroup = r->cgroup ? (uint64_t)r->cgroup_fd : 0,
	};
	if (pipe2(ready, O_CLOEXEC))
		return failed("make a pipe");
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0)
		become_sandbox(r, &self, ready[1]);
	if (pid < 0) {
		failed("clone into new namespaces");
		close(ready[0]);
	} else {
		fcntl(ready[0], F_SETFL, O_NONBLOCK);
		add_box(r, pid, ready[0]);
	}
	close(ready[1]);
	return pid < 0 ? -1 : 0;
}

static void create(char *line)
{
	struct request r;
	bool made = !parse_create(line, &r) && !prepare(&r) && !spawn(&r);
	if (!made) {
		printf("error\t%s\t%s\n", r.id ? r.id : "-", trouble);
		give_devices_back(r.devices);
		if (r.scratch >= 0)
			close(r.scratch);
	}
	if (r.room.mounts >= 0)
		close_room(&r.room);
	else
		drop_map(r.userns);
	if (r.cgroup_fd >= 0)
		close(r.cgroup_fd);
	if (r.network >= 0)
		close(r.network);
}

/* ---------------------------------------------------------------- how it goes on */

/* `R` from the init, `E…` from what was to become it, or nothing at all. */
static void hear_ready(struct box *box)
{
	char text[640];
	ssize_t length = read(box->ready, text, sizeof text - 1);
	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	close(box->ready);
	starting--;
	if (length > 0 && text[0] == 'R') {
		box->state = LIVE;
		printf("ok\t%s\t%d\t%d\n", box->id, box->pid, box->scratch);
		return;
	}
	text[length > 0 ? length : 0] = 0;
	box->state = FAILED;
	box->error = strdup(length > 1 ? text + 1 : "its init ended before it was ready");
	kill(box->pid, SIGKILL);
}

static void bury(struct box *box, int status)
{
	if (box->state == STARTING)
		hear_ready(box);
	if (box->state == LIVE)
		printf("exited\t%s\t%d\n", box->id, status);
	else
		printf("error\t%s\t%s\n", box->id, box->error ? box->error : "it ended at once");
	fflush(stdout); /* nobody need wait for the rest */
	box->pid = 0;
	let_go(box->mounts, box->devices);
	if (box->state == LIVE && box->scratch >= 0)
		box->state = ENDED; /* its files may still be wanted */
	else
		drop_box(box);
}

static void reap(void)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		for (int i = maker_ended(pid) ? box_count : 0; i < box_count; i++)
			if (boxes[i].pid == pid) {
				bury(&boxes[i], status);
				break;
			}
}

/* Told as gone when its processes are, or with `wait` only once it has nothing mounted either. */
static void kill_one(const char *id, bool wait)
{
	struct box *box = find_box(id);
	if (!box || !box->pid)
		return;
	if (!wait && box->mounts < 0)
		box->mounts = hold_mounts(box->pid);
	kill(box->pid, SIGKILL);
}

static void signal_one(const char *id, int number)
{
	struct box *box = find_box(id);
	errno = 0;
	if (box && box->pid && signal_everybody(box->pid, number))
		printf("signaled\t%s\t%s\n", id, trouble);
	else
		printf("signaled\t%s\t\n", id);
}

static void forget(const char *id)
{
	struct box *box = find_box(id);
	if (box && box->state == ENDED)
		drop_box(box);
}

static void obey(char *line)
{
	char *rest = line, *verb = strsep(&rest, "\t");
	if (!strcmp(verb, "create") && rest)
		create(rest);
	else if (!strcmp(verb, "kill") && rest)
		kill_one(rest, false);
	else if (!strcmp(verb, "unmount") && rest)
		kill_one(rest, true);
	else if (!strcmp(verb, "stop") && rest)
		signal_one(rest, SIGSTOP);
	else if (!strcmp(verb, "continue") && rest)
		signal_one(rest, SIGCONT);
	else if (!strcmp(verb, "forget") && rest)
		forget(rest);
	else if (!strcmp(verb, "room") && rest)
		order_room(rest);
	else if (!strcmp(verb, "drop") && rest)
		drop_room(rest);
	else if (!strcmp(verb, "volume") && rest)
		make_volume(rest);
	else
		printf("error\t-\tunknown request '%s'\n", verb);
}

/* Returns false at the end of stdin. */
static bool read_requests(void)
{
	static char buffer[LINE_BYTES];
	static size_t used;
	ssize_t length = read(STDIN_FILENO, buffer + used, sizeof buffer - used);
	if (length <= 0)
		return length < 0 && errno == EINTR;
	used += (size_t)length;
	char *line = buffer, *end;
	while ((end = memchr(line, '\n', used - (size_t)(line - buffer)))) {
		*end = 0;
		obey(line);
		line = end + 1;
	}
	used -= (size_t)(line - buffer);
	memmove(buffer, line, used);
	return used < sizeof buffer;
}

/* ---------------------------------------------------------------- the launcher's own life */

static int open_self(void)
{
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	self.self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (self.self < 0)
		return failed("open a pidfd");
	return (self.binary = sealed_copy()) < 0 ? -1 : 0;
}

static int open_signals(void)
{
	sigset_t child;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool wants_spare(void)
{
	return wants_spare_network() || wants_spare_devices() || wants_spare_scratch();
}

/* One thing at a time, since a request may come meanwhile. */
static void make_ahead(void)
{
	if (wants_spare_network())
		make_spare_network();
	else if (wants_spare_devices())
		make_spare_devices();
	else
		make_spare_scratch();
}

static void serve(int signals, int parent)
{
	struct pollfd fds[4 + STARTING_AT_ONCE];
	struct signalfd_siginfo info;
	for (;;) {
		int count = 4;
		/* Left out of the poll while enough are being made: the pipe holds the rest. */
		fds[0] = (struct pollfd){starting < STARTING_AT_ONCE ? STDIN_FILENO : -1, POLLIN, 0};
		fds[1] = (struct pollfd){signals, POLLIN, 0};
		fds[2] = (struct pollfd){parent, POLLIN, 0};
		fds[3] = (struct pollfd){maker_answers(), POLLIN, 0};
		for (int i = 0; i < box_count && count < 4 + STARTING_AT_ONCE; i++)
			if (boxes[i].state == STARTING)
				fds[count++] = (struct pollfd){boxes[i].ready, POLLIN, 0};
		int events = poll(fds, (nfds_t)count, !starting && wants_spare() ? 0 : -1);
		if (events == 0)
			make_ahead();
		if (events <= 0)
			continue;
		for (int i = 0; i < box_count; i++)
			if (boxes[i].state == STARTING)
				hear_ready(&boxes[i]);
		if (fds[1].revents && read(signals, &info, sizeof info) > 0)
			reap();
		if (fds[3].revents)
			hear_maker();
		if (fds[2].revents || (fds[0].revents && !read_requests()))
			return;
		if (!starting) /* else it would only take time from those that are waited for */
			send_order();
		fflush(stdout);
	}
}

static void end_all(int signals)
{
	struct pollfd child = {signals, POLLIN, 0};
	struct signalfd_siginfo info;
	for (int i = 0; i < box_count; i++)
		if (boxes[i].pid)
			kill(boxes[i].pid, SIGKILL);
	stop_undertaker();
	stop_maker();
	for (;;) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);
		if (pid < 0)
			return;
		if (pid == 0 && poll(&child, 1, END_WAIT_MS) <= 0)
			return;
		if (pid == 0 && read(signals, &info, sizeof info) < 0)
			continue;
	}
}

int launch_main(int argc, char **argv)
{
	static char out[1 << 16];
	setvbuf(stdout, out, _IOFBF, sizeof out);
	int parent = (int)syscall(SYS_pidfd_open, getppid(), 0);
	int signals = open_signals();
	errno = 0;
	if (argc < 3 || chdir(argv[2]))
		failed("usage: rollout-box launch OWNER_FOLDER [PATH TO KEEP MOUNTED]...");
	else if (parent < 0 || signals < 0)
		failed("open a pidfd and a signalfd");
	else if (!(geteuid() && enter_own_userns()) && !open_self() && !build_filter() &&
		 !prepare_mounts(argc - 2, argv + 2) && !start_undertaker() && !start_maker()) {
		printf("ready\n");
		fflush(stdout);
		serve(signals, parent);
		end_all(signals);
		return 0;
	}
	printf("error\t-\t%s\n", trouble);
	fflush(stdout);
	return 1;
}

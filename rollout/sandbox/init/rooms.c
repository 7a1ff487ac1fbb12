/* Rooms: all that a sandbox sees and lives in but its processes, made before anybody asks for it.
 *
 * Two thirds of a sandbox's making do not depend on who moves in: its namespaces but that of
 * processes, its overlays and /dev, the socket of its init. A process beside the launcher, the
 * maker, makes them, one at a time; it shares the launcher's descriptors and through these hands
 * over namespaces that nobody is in. A room is used once or never, and only by its own uids. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST 32
#define NICE 10
#define ORDER_BYTES (128 * 1024)
#define NEW_SPACES (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

enum stage { ORDERED, IN_MAKING, READY };

/* What the maker answers. */
struct answer {
	bool made;
	struct room room;
	char trouble[sizeof trouble];
};

struct place {
	char name[72];
	enum stage stage;
	bool unwanted; /* dropped while the maker is at it */
	char *order;
	struct room room; /* once READY */
};

static struct place places[MOST];
static int place_count;
static int maker = -1; /* the launcher's end */
static pid_t maker_pid;

/* ---------------------------------------------------------------- the maker */

struct origin {
	int mounts, network, ipc, uts, folder;
};

static int open_space(const char *name)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/ns/%s", name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int open_origin(struct origin *origin)
{
	*origin = (struct origin){open_space("mnt"), open_space("net"), open_space("ipc"),
				  open_space("uts"), open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)};
	return origin->mounts < 0 || origin->network < 0 || origin->ipc < 0 || origin->uts < 0 ||
			       origin->folder < 0
		       ? failed("open the launcher's namespaces")
		       : 0;
}

/* From whichever of the room's it got into. */
static void return_to(const struct origin *origin)
{
	if (setns(origin->network, CLONE_NEWNET) || setns(origin->ipc, CLONE_NEWIPC) ||
	    setns(origin->uts, CLONE_NEWUTS) || setns(origin->mounts, CLONE_NEWNS) ||
	    fchdir(origin->folder))
		_exit(1); /* rooms must share nothing with one that the maker is stuck in */
}

static int furnish_room(struct request *r, struct room *room)
{
	if (unshare(NEW_SPACES))
		return failed("make namespaces ahead");
	room->mounts = open_space("mnt");
	room->network = open_space("net");
	room->ipc = open_space("ipc");
	room->uts = open_space("uts");
	if (room->mounts < 0 || room->network < 0 || room->ipc < 0 || room->uts < 0)
		return failed("open namespaces made ahead");
	if (mount_proc_once() || set_up_network() || find_all_maps(r))
		return -1;
	/* A copy, for who made it forgets it when it pleases. */
	room->userns = fcntl(r->userns, F_DUPFD_CLOEXEC, 0);
	if (room->userns < 0)
		return failed("copy a descriptor");
	if ((r->subvolume && find_volume()) || make_devices_ahead(&r->devices) || furnish(r, &room->listener))
		return -1;
	room->devices = r->devices;
	return pivot(r) || set_hostname() ? -1 : 0;
}

static void make_room(char *order, const struct origin *origin, struct answer *answer)
{
	struct request r;
	*answer = (struct answer){.room = NO_ROOM};
	answer->made = !parse_room(order, &r) && !furnish_room(&r, &answer->room);
	memcpy(answer->trouble, trouble, sizeof trouble);
	forget_volume();
	return_to(origin);
}

static _Noreturn void serve_as_maker(int orders)
{
	static char order[ORDER_BYTES];
	static struct answer answer;
	struct origin origin;
	ssize_t length;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "rollout-make");
	setpriority(PRIO_PROCESS, 0, NICE); /* what is ahead gives way to what is asked for */
	if (open_origin(&origin))
		_exit(1);
	while ((length = recv(orders, order, sizeof order - 1, 0)) > 0) {
		order[length] = 0;
		make_room(order, &origin, &answer);
		if (send(orders, &answer, sizeof answer, 0) != sizeof answer)
			break;
	}
	_exit(0);
}

int start_maker(void)
{
	struct clone_args args = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
	int ends[2];
	if (unprivileged)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		return failed("make a pair of sockets");
	maker_pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (maker_pid == 0)
		serve_as_maker(ends[1]);
	maker = ends[0];
	return maker_pid < 0 ? failed("start the maker of rooms") : 0;
}

void stop_maker(void)
{
	if (maker_pid > 0)
		kill(maker_pid, SIGKILL);
}

/* ---------------------------------------------------------------- the launcher's books */

int maker_answers(void)
{
	return maker;
}

static struct place *find_place(const char *name)
{
	for (int i = 0; i < place_count; i++)
		if (!strcmp(places[i].name, name))
			return &places[i];
	return NULL;
}

void close_room(struct room *room)
{
	int rest[] = {room->network, room->ipc, room->uts, room->userns, room->listener};
	for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
		if (rest[i] >= 0)
			close(rest[i]);
	if (room->mounts >= 0)
		close(room->mounts);
	*room = NO_ROOM;
}

static void forget_place(struct place *place)
{
	free(place->order);
	*place = places[--place_count];
}

/* Said once nothing writes to its folder any more. */
static void tell_dropped(struct place *place, const char *why)
{
	printf("dropped\t%s\t%s\n", place->name, why);
	let_go(place->room.mounts, place->room.devices);
	place->room.mounts = -1;
	close_room(&place->room);
	forget_place(place);
}

void order_room(const char *line)
{
	size_t length = strcspn(line, "\t");
	struct place *place = &places[place_count];
	if (place_count == MOST || !length || length >= sizeof place->name || maker < 0) {
		printf("dropped\t%.*s\t%s\n", (int)length, line, "there is no more room for it");
		return;
	}
	*place = (struct place){.stage = ORDERED, .order = strdup(line), .room = NO_ROOM};
	memcpy(place->name, line, length);
	place_count++;
}

void drop_room(const char *name)
{
	struct place *place = find_place(name);
	if (!place)
		return;
	if (place->stage == IN_MAKING)
		place->unwanted = true;
	else
		tell_dropped(place, "");
}

/* The next one, if the maker has nothing to do. */
void send_order(void)
{
	struct place *next = NULL;
	for (int i = 0; i < place_count; i++) {
		if (places[i].stage == IN_MAKING)
			return;
		if (places[i].stage == ORDERED && !next)
			next = &places[i];
	}
	if (!next)
		return;
	errno = 0;
	if (send(maker, next->order, strlen(next->order), MSG_DONTWAIT) < 0)
		tell_dropped(next, "the maker of rooms takes no orders");
	else
		next->stage = IN_MAKING;
}

void hear_maker(void)
{
	static struct answer answer;
	ssize_t length = recv(maker, &answer, sizeof answer, MSG_DONTWAIT);
	if (length != sizeof answer)
		return;
	for (int i = 0; i < place_count; i++)
		if (places[i].stage == IN_MAKING) {
			places[i].room = answer.room;
			places[i].stage = READY;
			if (!answer.made || places[i].unwanted)
				tell_dropped(&places[i], answer.made ? "" : answer.trouble);
			return;
		}
}

bool maker_ended(pid_t pid)
{
	if (!maker_pid || pid != maker_pid)
		return false;
	maker_pid = 0;
	close(maker);
	maker = -1;
	for (int i = place_count - 1; i >= 0; i--)
		if (places[i].stage != READY)
			tell_dropped(&places[i], "the maker of rooms has died");
	return true;
}

/* Its room, if it is ready; else there is none, now or later. */
int take_room(struct request *r)
{
	char from[96], to[96];
	struct place *place = r->room_name ? find_place(r->room_name) : NULL;
	if (!place)
		return 0;
	if (place->stage != READY || r->host_network || WEAKENED(r)) {
		drop_room(r->room_name);
		return 0;
	}
	r->room = place->room;
	r->userns = place->room.userns;
	r->devices = place->room.devices;
	snprintf(from, sizeof from, "spare/%s", place->name);
	snprintf(to, sizeof to, "b/%s", r->id);
	int done = rename(from, to);
	if (!done && r->subvolume) {
		snprintf(from, sizeof from, "mnt/v/%s", place->name);
		snprintf(to, sizeof to, "mnt/v/%s", r->id);
		done = rename(from, to);
	}
	forget_place(place);
	return done ? failed("move %s to %s", from, to) : 0;
}

/* In the clone of the launcher that is to live there: it leaves the host behind. */
int enter_room(const struct room *room)
{
	if (setns(room->network, CLONE_NEWNET) || setns(room->ipc, CLONE_NEWIPC) ||
	    setns(room->uts, CLONE_NEWUTS) || setns(room->mounts, CLONE_NEWNS))
		return failed("enter a room made ahead");
	return 0;
}

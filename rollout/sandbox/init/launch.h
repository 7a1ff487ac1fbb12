/* The launcher: makes sandboxes on request and reports their ends.
 *
 * Functions return 0, or -1 after having put into words what failed (see failed()). */
#ifndef ROLLOUT_LAUNCH_H
#define ROLLOUT_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MAX_LAYERS 128
#define MAX_JOINS 8
#define MAX_WRITES 16
#define RANGE 65536u

/* Not root of the host: its user namespace is the launcher's own, with one id in it, and there are
 * no control groups, no device nodes and no layers of others' ids. */
extern bool unprivileged;

/* A read-only folder below a file system, and the first host uid of the range that owns it. */
struct layer {
	uint32_t owner;
	const char *path;
	int map; /* user namespace that maps owner's range onto the sandbox's; -1: the same range */
};

/* Layers of one overlay, topmost first. */
struct stack {
	int count;
	struct layer at[MAX_LAYERS];
};

/* Made ahead, see rooms.c; all are descriptors but `devices`. */
struct room {
	int mounts, network, ipc, uts;
	int userns;   /* of the uids it is for */
	int listener; /* of its init */
	int devices;  /* number of its /dev */
};
#define NO_ROOM ((struct room){-1, -1, -1, -1, -1, -1, 0})

/* One line of `create`, or of `room`; all strings point into that line. */
struct request {
	const char *id;
	bool ahead; /* nobody's yet: its folder is among the spare ones */
	const char *room_name; /* the room ordered for it, or NULL */
	struct room room;
	uint32_t uids; /* first host uid of the sandbox's own range */
	int userns;
	struct stack root, usr;
	unsigned long long scratch_bytes; /* 0: a folder on disk, else a tmpfs of this size */
	int scratch;                      /* its mount, or -1 */
	bool subvolume;                   /* scratch is a subvolume of the volume */
	unsigned long long subvolume_bytes; /* its limit; 0: none */
	int network;                      /* a spare one, or -1 */
	bool host_network;                /* the launcher's, that is the host's; while an image is built */
	bool has_scratch;                 /* its folders were made ahead */
	int devices;                      /* number of its /dev; 0: the shared one, or none yet */
	const char *cgroup;               /* v2 directory, or NULL */
	int cgroup_fd;
	const char *joins[MAX_JOINS]; /* v1 directories */
	int join_count;
	char *writes[MAX_WRITES]; /* `file=value`, done once the directories exist */
	int write_count;
	unsigned long long data_bytes; /* RLIMIT_DATA of each process, or 0 */
	unsigned long long processes;  /* RLIMIT_NPROC, for its user namespace, or 0 */
	bool sudo;
#ifdef ROLLOUT_WEAKEN
	const char *weaken; /* walls to leave out, split at commas */
#endif
};

/* What every sandbox needs of the launcher, open since its start. */
struct launcher {
	int binary; /* sealed copy of this program */
	int self;   /* pidfd: readable once the launcher has ended */
};

int launch_main(int argc, char **argv);
int find_all_maps(struct request *r);

/* trouble.c: the one place for error texts; errno's own text is appended unless errno is 0. */
extern char trouble[512];
int failed(const char *format, ...) __attribute__((format(printf, 1, 2)));
int write_text(const char *path, const char *text);

int parse_create(char *line, struct request *r);
int parse_room(char *line, struct request *r);

/* sealed.c */
int sealed_copy(void);

/* ids.c */
int enter_own_userns(void);
uint32_t ids_each(void);
int map_ids(uint32_t from, uint32_t onto);
void drop_map(int userns);
int enter_userns(int userns);

/* cgroup.c */
int make_cgroups(struct request *r);
int join_cgroups(const struct request *r);

/* mounts.c */
int prepare_mounts(int keep_count, char **keep);
int own_proc(void);
int mount_proc_once(void);
int open_scratch(struct request *r);
int mount_all(const struct request *r);
int mount_proc(void);
int pivot(const struct request *r);

/* devices.c */
int open_devices(void);
bool wants_spare_devices(void);
void make_spare_devices(void);
int make_devices_ahead(int *number);
int take_devices(struct request *r);
void give_devices_back(int number);

/* scratch.c */
const char *own_folder(const struct request *r);
const char *scratch_folder(const struct request *r, char *room, size_t size);
bool wants_spare_scratch(void);
void make_spare_scratch(void);
int take_spare_scratch(struct request *r);
int make_scratch(const struct request *r);

/* volume.c */
void keep_devices(void);
void make_volume(const char *image);
int find_volume(void);
void forget_volume(void);
int make_subvolume(const struct request *r);
int remove_subvolume(int folder, const char *name);

/* net.c */
bool wants_spare_network(void);
void make_spare_network(void);
int take_spare_network(void);
int set_up_network(void);
int enter_network(const struct request *r);

/* everybody.c */
int signal_everybody(pid_t init, int number);

/* rooms.c */
int start_maker(void);
void stop_maker(void);
int maker_answers(void);
bool maker_ended(pid_t pid);
void hear_maker(void);
void send_order(void);
void order_room(const char *line);
void drop_room(const char *name);
int take_room(struct request *r);
int enter_room(const struct room *room);
void close_room(struct room *room);

/* undertaker.c */
int start_undertaker(void);
void stop_undertaker(void);
int hold_mounts(pid_t pid);
void let_go(int mounts, int devices);

/* confine.c */
int set_limits(const struct request *r);
int drop_privileges(const struct request *r);
int die_with(int launcher_pidfd);

/* seccomp.c */
int build_filter(void);
int install_filter(void);

/* weaken.c, for tests alone */
#ifdef ROLLOUT_WEAKEN
bool weak(const struct request *r, const char *wall);
unsigned long long shared_namespaces(const struct request *r);
int raise_limits(const struct request *r);
#define WEAKENED(r) ((char *)(r)->weaken)
#else
#define weak(r, wall) ((void)(r), false)
#define shared_namespaces(r) ((void)(r), 0ull)
#define raise_limits(r) ((void)(r), 0)
#define WEAKENED(r) NULL
#endif

/* sandbox.c */
int furnish(const struct request *r, int *listener);
int set_hostname(void);
_Noreturn void become_sandbox(const struct request *r, const struct launcher *l, int ready);

#endif

/* rollout-box serve SOCKET [sudo] [absent PATH]...
 *
 * The entrypoint of a container: what sandbox.c does between the launcher and the init, where
 * Docker has made the namespaces. The host listens on SOCKET, which is mounted into the container
 * for this alone, and hands over the two descriptors that an init starts with: the socket it
 * accepts on, whose name no path inside leads to, and the pipe on which it says that it is ready.
 * After that nobody listens on SOCKET any more.
 *
 *   sudo         setuid programs work: no_new_privs is not set
 *   absent PATH  the image lacks this file, which Docker has put there */
#define _GNU_SOURCE
#include "box.h"
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTENER 3
#define READY 4
#define BINARY 5
#define HIGH 100

static const char hosts[] = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost\n";

/* Both at once, as copies that no number below is in the way of. */
static int take_descriptors(const char *path, int *listener, int *ready)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char byte;
	struct iovec bytes = {&byte, 1};
	union {
		char space[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control.space,
				 .msg_controllen = sizeof control.space};
	int given[2], host = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
	if (host < 0 || connect(host, (struct sockaddr *)&address, sizeof address))
		return failed("connect to the host at %s", path);
	if (RETRY(recvmsg(host, &message, MSG_CMSG_CLOEXEC)) != 1)
		return failed("take the init's descriptors");
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	errno = 0;
	if (!head || head->cmsg_type != SCM_RIGHTS || head->cmsg_len != CMSG_LEN(sizeof given))
		return failed("the host gave no two descriptors");
	memcpy(given, CMSG_DATA(head), sizeof given);
	*listener = fcntl(given[0], F_DUPFD_CLOEXEC, HIGH);
	*ready = fcntl(given[1], F_DUPFD_CLOEXEC, HIGH);
	return *listener < 0 || *ready < 0 ? failed("arrange descriptors") : 0;
}

/* Docker puts empty files into every container. None of this can fail in a way that matters. */
static void set_files_right(int count, char **absent)
{
	struct stat about;
	int fd = open("/etc/hosts", O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd >= 0 && !fstat(fd, &about) && S_ISREG(about.st_mode) && !about.st_size)
		(void)!write(fd, hosts, sizeof hosts - 1);
	if (fd >= 0)
		close(fd);
	unlink("/.dockerenv");
	mkdir("/root", 0700);
	mkdir("/run", 0755);
	if (!mkdir("/tmp", 0755)) /* the umask would take the bit that all may write */
		chmod("/tmp", 01777);
	for (int i = 0; i + 1 < count; i++)
		if (!strcmp(absent[i], "absent"))
			unlink(absent[++i]);
}

static int arrange_descriptors(int listener, int ready, int binary)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int high = fcntl(binary, F_DUPFD_CLOEXEC, HIGH);
	if (null < 0 || high < 0)
		return failed("arrange descriptors");
	int from[] = {null, null, null, listener, ready, high};
	/* `null` itself may be 3: it has been copied by the time that is overwritten. */
	for (int to = 0; to <= BINARY; to++)
		if (from[to] != to && dup3(from[to], to, to == BINARY ? O_CLOEXEC : 0) < 0)
			return failed("arrange descriptors");
	syscall(SYS_close_range, BINARY + 1, ~0u, 0);
	return 0;
}

static void start_as_new(void)
{
	sigset_t none;
	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);
}

static void serve(const struct request *r, int listener, int ready)
{
	int binary = sealed_copy();
	char *const arguments[] = {"rollout-box", "init", WEAKENED(r), NULL};
	char *const environment[] = {NULL};

	if (binary < 0 || build_filter() || set_limits(r) ||
	    arrange_descriptors(listener, ready, binary) || drop_privileges(r))
		return;
	start_as_new();
	syscall(SYS_execveat, BINARY, "", arguments,
		weak(r, "environment") ? environ : environment, AT_EMPTY_PATH);
	failed("start the init");
}

int serve_main(int argc, char **argv)
{
	struct request r = {0};
	int listener, ready;

	if (argc < 3)
		die("usage: rollout-box serve SOCKET [sudo] [absent PATH]...");
	if (take_descriptors(argv[2], &listener, &ready))
		die("%s", trouble);
	for (int i = 3; i < argc; i++) {
		if (!strcmp(argv[i], "sudo"))
			r.sudo = true;
#ifdef ROLLOUT_WEAKEN
		if (!strncmp(argv[i], "weaken=", 7))
			r.weaken = argv[i] + 7;
#endif
	}
	set_files_right(argc - 3, argv + 3);
	serve(&r, listener, ready);
	/* By now its number may be another one. */
	if (fcntl(READY, F_GETFD) >= 0 && fcntl(ready, F_GETFD) < 0)
		ready = READY;
	dprintf(ready, "E%s", trouble);
	return 1;
}

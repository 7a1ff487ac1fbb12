/* The sandbox's own network: nothing but a loopback on which every port is free to take.
 *
 * A new one takes the kernel a quarter of a sandbox's making, so the launcher makes a few ahead
 * while nobody waits. None is ever used twice: what a sandbox left in one could reach the next. */
#define _GNU_SOURCE
#include "launch.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPARES 8

static int spares[SPARES], spare_count, own = -1;
static bool refused; /* the kernel would not make one ahead; sandboxes make their own */

static int raise_loopback(void)
{
	struct ifreq request = {.ifr_flags = IFF_UP | IFF_RUNNING};
	strcpy(request.ifr_name, "lo");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request))
		return failed("bring up the loopback");
	close(fd);
	return 0;
}

/* Of the caller's network, while it still is root of the host: the network belongs to the host's
 * user namespace, so that nothing inside can change it. */
int set_up_network(void)
{
	if (raise_loopback() || write_text("mnt/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"))
		return -1;
	return write_text("mnt/proc/sys/net/ipv4/ping_group_range",
			  unprivileged ? "0 0" : "0 2147483647");
}

static int open_current(void)
{
	return open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
}

bool wants_spare_network(void)
{
	return !refused && spare_count < SPARES;
}

void make_spare_network(void)
{
	int fd = -1;
	if (own < 0)
		own = open_current();
	refused = own < 0 || own_proc() || unshare(CLONE_NEWNET);
	if (refused)
		return;
	refused = set_up_network() || (fd = open_current()) < 0;
	if (setns(own, CLONE_NEWNET))
		_exit(1); /* sandboxes must not share the network that the launcher is stuck in */
	if (fd >= 0)
		spares[spare_count++] = fd;
}

int take_spare_network(void)
{
	return spare_count ? spares[--spare_count] : -1;
}

/* The spare given, or, in a clone that made its own, that one. The host's is left as it is: it
 * belongs to the host's user namespace, in which nothing of a sandbox has any power. */
int enter_network(const struct request *r)
{
	if (r->host_network)
		return 0;
	if (r->network < 0)
		return set_up_network();
	return setns(r->network, CLONE_NEWNET) ? failed("enter a network made ahead") : 0;
}

/* Output: from the pipes of a process to the host, and once it has ended to nowhere. */
#define _GNU_SOURCE
#include "init.h"
#include "box.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#define FULL_FRAME (WIRE_FRAME_HEAD + WIRE_MAX_PAYLOAD)
/* More than a terminal can hold back when its last process ends. */
#define PTY_LAST_BYTES (256u << 10)

static void stream_close(struct stream *stream)
{
	watch_close(&stream->watch);
	stream->last_bytes = 0;
}

/* Reads once and passes on what the limit leaves. False: nothing more now. */
static bool stream_pump(struct conn *conn, struct stream *stream)
{
	static char frame[FULL_FRAME];
	size_t most = WIRE_MAX_PAYLOAD;
	uint32_t shown;
	ssize_t got;

	if (conn->proc.exited && stream->last_bytes < most)
		most = stream->last_bytes;
	got = RETRY(read(stream->watch.fd, frame + WIRE_FRAME_HEAD, most));
	if (got < 0 && errno == EAGAIN) {
		stream->last_bytes = 0;
		return false;
	}
	/* A terminal whose last process has gone says EIO. */
	if (got <= 0) {
		stream_close(stream);
		return false;
	}
	if (conn->proc.exited)
		stream->last_bytes -= (size_t)got;
	shown = (uint32_t)got;
	if (stream->limit_left < shown) {
		shown = (uint32_t)stream->limit_left;
		stream->truncated = true;
	}
	stream->limit_left -= shown;
	if (!shown)
		return true;
	frame[0] = (char)stream->frame;
	memcpy(frame + 1, &shown, sizeof(shown));
	return conn_send_raw(conn, frame, WIRE_FRAME_HEAD + shown);
}

/* While the host takes nothing more, its own pipes are not read; those of others are. */
void output_watch(struct conn *conn)
{
	uint32_t events = conn_unsent(conn) || conn->proc.exited ? 0 : EPOLLIN;

	watch_set(&conn->proc.out.watch, events);
	watch_set(&conn->proc.err.watch, events);
}

static void stream_ready(struct conn *conn, struct stream *stream)
{
	stream_pump(conn, stream);
	if (conn->state == CONN_PROC && conn_unsent(conn))
		output_watch(conn);
}

static void out_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	stream_ready(container_of(watch, struct conn, proc.out.watch),
		     container_of(watch, struct stream, watch));
}

static void err_ready(struct watch *watch, uint32_t events)
{
	(void)events;
	stream_ready(container_of(watch, struct conn, proc.err.watch),
		     container_of(watch, struct stream, watch));
}

void output_init(struct conn *conn, uint64_t limit)
{
	conn->proc.out = (struct stream){ .watch = { .fd = -1, .ready = out_ready },
					  .frame = OUT_STDOUT,
					  .limit_left = limit };
	conn->proc.err = (struct stream){ .watch = { .fd = -1, .ready = err_ready },
					  .frame = OUT_STDERR,
					  .limit_left = limit };
}

/* ---- the process has ended */

static void bound_the_rest(const struct proc *proc, struct stream *stream)
{
	int waiting = 0;

	/* A background child may write for ever: only what is there now belongs to the exit. */
	if (stream->watch.fd < 0)
		return;
	if (proc->pty)
		stream->last_bytes = PTY_LAST_BYTES;
	else if (!ioctl(stream->watch.fd, FIONREAD, &waiting) && waiting > 0)
		stream->last_bytes = (uint64_t)waiting;
}

/* From here on only what is there already is read. */
void output_last(struct conn *conn)
{
	bound_the_rest(&conn->proc, &conn->proc.out);
	bound_the_rest(&conn->proc, &conn->proc.err);
	output_watch(conn);
}

/* Sends what the process wrote before it ended. False: not all of it yet, or the host has gone. */
bool output_flush(struct conn *conn)
{
	struct stream *streams[] = { &conn->proc.out, &conn->proc.err };

	for (size_t i = 0; i < 2; i++) {
		while (streams[i]->watch.fd >= 0 && streams[i]->last_bytes) {
			if (conn_unsent(conn))
				return false;
			stream_pump(conn, streams[i]);
			if (conn->state != CONN_PROC)
				return false;
		}
	}
	return !conn_unsent(conn);
}

/* ---- somebody must read what background children write, or they would block or die of it */

static void drain_ready(struct watch *watch, uint32_t events)
{
	static char nowhere[64u << 10];
	ssize_t got = RETRY(read(watch->fd, nowhere, sizeof(nowhere)));

	(void)events;
	if (got > 0 || (got < 0 && errno == EAGAIN))
		return;
	/* This round holds no other event for it: one descriptor is told once a round. */
	watch_close(watch);
	free(watch);
}

static void drain(struct stream *stream)
{
	struct watch *watch;
	char probe;

	/* Mostly nobody holds the other end any more, and it takes no watch to see that. */
	if (stream->watch.fd < 0 || RETRY(read(stream->watch.fd, &probe, 1)) == 0) {
		stream_close(stream);
		return;
	}
	watch = calloc(1, sizeof(*watch));
	if (!watch) {
		stream_close(stream);
		return;
	}
	watch_set(&stream->watch, 0);
	watch->fd = stream->watch.fd;
	watch->ready = drain_ready;
	stream->watch.fd = -1;
	watch_set(watch, EPOLLIN);
}

void output_release(struct conn *conn)
{
	drain(&conn->proc.out);
	drain(&conn->proc.err);
}

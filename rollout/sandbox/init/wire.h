/*
 * The wire between the host and an init, version 1. Mirrored by rollout/sandbox/wire.py.
 *
 * One connection carries one operation, or one after the other where each was an EXEC with
 * EXEC_KEEP. The host sends a request, then both sides send frames; every number is little-endian.
 * Whoever sees a broken rule closes the connection.
 *
 *   request   u32 length | body (at most WIRE_MAX_REQUEST)
 *   frame     u8 type | u32 length | payload (at most WIRE_MAX_PAYLOAD)
 *
 * Strings in a body or payload end with NUL and may hold any other byte.
 *
 *   operation    body after the head                       then in           then out
 *   EXEC         wire_exec, cwd, user, argv..., env...      STDIN STDIN_EOF   [STARTED] STDOUT STDERR
 *                                                           RESIZE            EXIT | ERROR
 *   SIGNAL       wire_signal                                                  OK
 *   KILL_ALL     -                                                            OK, once all are gone
 *   PING         -                                                            OK
 *   READ_FILE    wire_file, path, ""                                          DATA... OK | ERROR
 *   WRITE_FILE   wire_file, path, owner                     DATA... END       OK | ERROR
 *   PACK_TREE    wire_file, path, ""                                          (ENTRY DATA...)... OK | ERROR
 *   UNPACK_TREE  wire_file, dest, owner                     (ENTRY DATA...)... END   OK | ERROR
 *   REMOVE       wire_file, path, ""                                          OK | ERROR
 *   LISTEN       wire_port                                                    OK with one descriptor | ERROR
 *   CONNECT      wire_port                                                    OK with one descriptor | ERROR
 *
 * Hanging up cancels: the process group of an EXEC is killed, a file operation ends where it is.
 * The content of a file in a tree ends where the next ENTRY, END or OK stands.
 */
#pragma once

#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian and read in place"
#endif

#define WIRE_VERSION 1
#define WIRE_MAX_REQUEST (8u << 20)
#define WIRE_MAX_PAYLOAD (64u << 10)
#define WIRE_FRAME_HEAD 5

enum wire_op {
	OP_EXEC = 1,
	OP_KILL_ALL = 2,
	OP_PING = 3,
	OP_READ_FILE = 4,
	OP_WRITE_FILE = 5,
	OP_PACK_TREE = 6,
	OP_UNPACK_TREE = 7,
	OP_REMOVE = 8,
	OP_LISTEN = 9,
	OP_CONNECT = 10,
	OP_SIGNAL = 11,
};

enum wire_in {
	IN_STDIN = 1,     /* bytes */
	IN_STDIN_EOF = 2, /* - */
	IN_RESIZE = 3,    /* u16 rows | u16 cols */
	IN_DATA = 5,      /* bytes of a file */
	IN_ENTRY = 6,     /* wire_entry, path, target */
	IN_END = 7,       /* - */
};

enum wire_out {
	OUT_STDOUT = 33, /* bytes */
	OUT_STDERR = 34, /* bytes */
	OUT_EXIT = 35,   /* wire_exit; the last frame of its request */
	OUT_ERROR = 36,  /* u32 errno | text without NUL; the last frame */
	OUT_DATA = 37,   /* bytes of a file */
	OUT_ENTRY = 38,  /* wire_entry, path, target */
	OUT_OK = 39,     /* -; the last frame */
	OUT_STARTED = 40, /* u32 pid, as seen inside */
};

/* Flags of EXEC. */
#define EXEC_STDIN 1    /* STDIN frames follow; otherwise it reads /dev/null */
#define EXEC_PTY 2      /* a terminal of rows x cols is 0, 1 and 2 */
#define EXEC_ANNOUNCE 4 /* send STARTED */
#define EXEC_KEEP 8     /* the connection takes another request after EXIT; not with STDIN or PTY */

/* Flags of EXIT. */
#define EXIT_TRUNCATED 1 /* output went past its limit */
#define EXIT_TIMED_OUT 2 /* the group was killed at its timeout */
#define EXIT_KILLED 4    /* a KILL_ALL took it */

/* Kinds of a wire_entry. */
#define ENTRY_FILE 'f'
#define ENTRY_DIR 'd'
#define ENTRY_LINK 'l'
#define ENTRY_OTHER 'o' /* a device, fifo or socket: named, never packed, never unpacked */

struct wire_head {
	uint8_t version;
	uint8_t op;
	uint16_t flags;
} __attribute__((packed));

struct wire_exec {
	uint32_t timeout_ms;   /* 0: none */
	uint64_t output_limit; /* bytes of stdout and of stderr, each */
	uint16_t rows;
	uint16_t cols;
	uint32_t argc;
	uint32_t envc;
} __attribute__((packed));

struct wire_file {
	uint32_t mode;
	uint64_t limit_bytes;
	uint32_t limit_entries;
} __attribute__((packed));

struct wire_port {
	uint16_t port; /* on 127.0.0.1; 0 lets the kernel choose (LISTEN) */
} __attribute__((packed));

/* An operation of its own, since a frame would wait behind stdin that the process does not read. */
struct wire_signal {
	uint32_t pid; /* as STARTED told it; its process group gets the signal if it still runs */
	uint32_t signal;
} __attribute__((packed));

struct wire_exit {
	int32_t code; /* 128 + n where signal n ended it */
	uint32_t flags;
} __attribute__((packed));

struct wire_entry {
	uint8_t kind;
	uint32_t mode; /* permission bits only */
} __attribute__((packed));

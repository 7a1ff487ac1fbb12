/* File operations: what op.c gives to file.c, pack.c, unpack.c and remove.c. Each runs in a child and may wait and die. */
#pragma once

#include "init.h"

#include <sys/stat.h>

/* The one operation of this child. */
struct op {
	const char *path;
	struct user owner;
	mode_t mode;
	uint64_t limit_bytes;
	uint32_t limit_entries;
};

/* An answer of any length, frame by frame. */
char *op_payload(void);                         /* where the next payload is written */
void op_send(uint8_t type, size_t length);      /* ... and then sent, or kept until more is there */
_Noreturn void op_done(void);
_Noreturn void op_fail(int err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The next frame from the host; ends the child when the host hangs up. */
uint8_t op_receive(const char **payload, uint32_t *length);

/* file.c */
_Noreturn void read_file(const struct op *op);
_Noreturn void write_file(const struct op *op);
void write_content(int fd, const char *name, const char *bytes, size_t length);
void make_folders(const char *path, const struct user *owner);
void give(int fd, const char *name, const struct op *op, mode_t mode);

/* pack.c */
_Noreturn void pack_tree(const struct op *op);

/* unpack.c */
_Noreturn void unpack_tree(const struct op *op);

/* remove.c */
_Noreturn void remove_tree(const struct op *op);

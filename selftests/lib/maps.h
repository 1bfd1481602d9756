/* SPDX-License-Identifier: GPL-2.0-only */
/* /proc/PID/maps and its relatives: reading in pieces, and a parser that accepts nothing but a whole line. */
#ifndef MAPS_H
#define MAPS_H

#include "kt.h"

struct maps_line {
	uint64_t start, end, offset, inode;
	unsigned int major, minor;
	char perms[5];		/* "rw-p" */
	const char *name;	/* in the text, not terminated; empty for most anonymous memory */
	size_t name_length;
	const char *text;	/* the whole line, without its newline */
	size_t length;
};

/* What one pass over a file gave. */
struct maps_text {
	char *data;		/* NUL behind the last byte */
	size_t length, size;
	size_t *reads;		/* where each read() ended */
	size_t nr_reads, max_reads;
};

/* Read a file from where it stands to its end, in pieces of at most chunk bytes. 0, or an errno. */
int maps_read(int fd, size_t chunk, struct maps_text *text);
/* As above, by pread() from position 0, whatever the file's own position is. */
int maps_pread(int fd, size_t chunk, struct maps_text *text);
/* One read() of at most length bytes into the memory that is there, which must hold one more. Bytes, or -errno. */
ssize_t maps_piece(int fd, size_t length, struct maps_text *text, bool positioned);
/* One pass over a file from its beginning: its bytes, or -1 and errno. Lines are added to, if asked for. */
int64_t maps_pass(int fd, char *buffer, size_t size, long *lines);
long maps_own_vmas(void);	/* of this process, by its maps */
void maps_free(struct maps_text *text);

/*
 * The line that begins at *at, which is moved behind it. 1, 0 at the end, or -1 with a reason (static) if
 * it is not what the kernel writes into maps: torn, cut short, an end not above its start, unknown letters.
 */
int maps_next(const struct maps_text *text, size_t *at, struct maps_line *line, const char **why);
/* One line of length bytes; 0, or -1 with a reason. A header line of smaps is one too. */
int maps_parse(const char *text, size_t length, struct maps_line *line, const char **why);
/* Whether a line of smaps begins a new mapping: it begins with an address. */
bool maps_is_header(const char *text, size_t length);
bool maps_named(const struct maps_line *line, const char *name);

#endif

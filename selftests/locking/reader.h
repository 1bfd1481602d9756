/* SPDX-License-Identifier: GPL-2.0-only */
/* Reading the files of an address space whole, and asking PROCMAP_QUERY for all of it. */
#ifndef READER_H
#define READER_H

#include "kt.h"
#include "query.h"

struct subject {
	const char *what;	/* "maps" */
	const char *path;	/* below /proc/PID */
	bool query;		/* asked by the ioctl, not read */
	int major, minor;	/* the kernel from which on it is read under per-VMA locks; 0: none does */
};

extern const struct subject subject_maps, subject_smaps, subject_numa_maps, subject_rollup, subject_query;
#define ROUND_SUBJECTS 4
extern const struct subject *const round_subjects[ROUND_SUBJECTS];	/* all but the rollup */

struct reader {
	const struct subject *subject;
	int fd;
	char *buffer;
	size_t chunk;
	uint64_t passes, reads, bytes;	/* a read is one that gave something, or one query */
	_Atomic uint64_t *progress;	/* if there: bytes, or queries; told at once */
};

/* The least buffer that a read() empties the kernel's own into, so that each one fills it anew. */
size_t reader_whole_chunk(void);
/* False and errno, if the kernel lacks the file. */
bool reader_try(struct reader *reader, const struct subject *subject, int pid, size_t chunk);
/* As above, but what is not there ends the case: skipped. */
void reader_open(struct reader *reader, const struct subject *subject, int pid, size_t chunk);
void reader_pass(struct reader *reader);	/* once over the whole address space */
void reader_close(struct reader *reader);
/* Whether it is to be read without mmap_lock on this kernel; what cannot be told ends the case. */
bool subject_lockless(const struct subject *subject);
bool has_vma_locks(void);

#endif

// SPDX-License-Identifier: GPL-2.0-only
#include "reader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct subject subject_maps = { "maps", "maps", false, 6, 17 };
const struct subject subject_smaps = { "smaps", "smaps", false, 7, 2 };
const struct subject subject_numa_maps = { "numa_maps", "numa_maps", false, 7, 2 };
const struct subject subject_rollup = { "smaps_rollup", "smaps_rollup", false, 0, 0 };
const struct subject subject_query = { "PROCMAP_QUERY", "maps", true, 6, 18 };

const struct subject *const round_subjects[ROUND_SUBJECTS] = {
	&subject_maps, &subject_smaps, &subject_numa_maps, &subject_query
};

bool has_vma_locks(void)
{
	int has = kt_per_vma_lock();

	if (has < 0)
		kt_inconclusive("/proc/kallsyms does not tell whether the kernel has per-VMA locks");
	return has;
}

bool subject_lockless(const struct subject *subject)
{
	return has_vma_locks() && subject->major && kt_kernel_since(subject->major, subject->minor);
}

size_t reader_whole_chunk(void)
{
	return kt_page() > 65536 ? kt_page() : 65536;
}

bool reader_try(struct reader *reader, const struct subject *subject, int pid, size_t chunk)
{
	char path[64];

	memset(reader, 0, sizeof(*reader));
	reader->subject = subject;
	reader->chunk = chunk;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, subject->path);
	reader->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (reader->fd < 0)
		return false;
	if (subject->query) {
		struct procmap_query query = { .size = sizeof(query),
					       .query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA };

		if (ioctl(reader->fd, PROCMAP_QUERY, &query) && errno == ENOTTY) {
			close(reader->fd);
			errno = ENOTTY;
			return false;
		}
	}
	reader->buffer = malloc(chunk);
	if (!reader->buffer)
		kt_inconclusive("no memory");
	return true;
}

void reader_open(struct reader *reader, const struct subject *subject, int pid, size_t chunk)
{
	if (reader_try(reader, subject, pid, chunk))
		return;
	if (errno == ENOENT || errno == ENOTTY)
		kt_skip("the kernel has no %s", subject->what);
	kt_inconclusive("%s: %s", subject->what, strerror(errno));
}

void reader_close(struct reader *reader)
{
	close(reader->fd);
	free(reader->buffer);
}

static void got_on(struct reader *reader, uint64_t by)
{
	reader->reads++;
	reader->bytes += by;
	if (reader->progress)
		atomic_fetch_add(reader->progress, by);
}

static void query_pass(struct reader *reader)
{
	uint64_t at = 0;

	for (;;) {
		struct procmap_query query = { .size = sizeof(query), .query_addr = at,
					       .query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
					       .vma_name_size = (uint32_t)reader->chunk,
					       .vma_name_addr = (uintptr_t)reader->buffer };

		/* inside one query the kernel goes on from VMA to VMA until one has a file */
		bool skipping = reader->reads % 256 == 255;
		int error;

		if (skipping)
			query.query_flags |= PROCMAP_QUERY_FILE_BACKED_VMA;
		error = ioctl(reader->fd, PROCMAP_QUERY, &query) ? errno : 0;
		got_on(reader, 1);
		if (error && error != ENOENT)
			kt_fail("PROCMAP_QUERY at %" PRIx64 ": %s", at, strerror(error));
		if (error && !(error == ENOENT && skipping))
			return;
		/* the walk stays where it is then: what was skipped is asked for as well */
		at = skipping ? at + 1 : query.vma_end;
	}
}

void reader_pass(struct reader *reader)
{
	ssize_t got;

	reader->passes++;
	if (reader->subject->query) {
		query_pass(reader);
		return;
	}
	if (lseek(reader->fd, 0, SEEK_SET))
		kt_inconclusive("lseek of %s: %s", reader->subject->what, strerror(errno));
	while ((got = read(reader->fd, reader->buffer, reader->chunk)) > 0)
		got_on(reader, (uint64_t)got);
	if (got < 0)
		kt_fail("read of %s: %s", reader->subject->what, strerror(errno));
}

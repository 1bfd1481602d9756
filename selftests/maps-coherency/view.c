// SPDX-License-Identifier: GPL-2.0-only
#include "view.h"

#include "query.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* No file of a target here is a tenth as long: one that is does not end. */
#define TEXT_MAX (2UL << 20)
#define LONG_READ 65536
#define HEAD_READ 512

void eye_prepare(struct eye *eye, enum view view, enum how how, uint64_t seed)
{
	*eye = (struct eye){ .view = view, .how = how, .fd = -1, .rng = { .state = seed } };
	eye->text.size = TEXT_MAX;
	eye->text.max_reads = TEXT_MAX;
	eye->text.data = kt_map(NULL, TEXT_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	eye->text.reads = kt_map(NULL, TEXT_MAX * sizeof(*eye->text.reads), PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

int eye_open(struct eye *eye, int pid, int tid)
{
	static const char *const files[] = { "maps", "smaps", "numa_maps", "smaps_rollup", "maps" };
	char path[64];

	if (tid)
		snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, files[eye->view]);
	else
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[eye->view]);
	eye->pid = pid;
	eye->tid = tid;
	eye->fd = open(path, O_RDONLY | O_CLOEXEC);
	return eye->fd < 0 ? errno : 0;
}

void eye_close(struct eye *eye)
{
	if (eye->fd >= 0)
		close(eye->fd);
	eye->fd = -1;
}

static size_t piece_length(struct eye *eye)
{
	/* evenly over the magnitudes */
	size_t length = 1UL << kt_below(&eye->rng, 17);

	return length - kt_below(&eye->rng, length / 2 + 1);
}

static size_t length_of_read(struct eye *eye)
{
	switch (eye->how) {
	case WHOLE: return LONG_READ;
	case PAGE: return kt_page();
	case BYTES: return 1;
	case HEAD: return HEAD_READ;
	default: return piece_length(eye);
	}
}

static int read_on(struct eye *eye, bool positioned)
{
	struct maps_text *text = &eye->text;

	for (;;) {
		size_t length = length_of_read(eye);
		ssize_t got;

		if (text->length + length >= text->size) {
			kt_fail("the file does not end: %zu bytes", text->length);
			return EFBIG;
		}
		got = maps_piece(eye->fd, length, text, positioned);
		if (got <= 0 || eye->how == HEAD)
			return got < 0 ? (int)-got : 0;
	}
}

static void write_line(struct maps_text *text, const struct procmap_query *query, const char *name)
{
	uint64_t flags = query->vma_flags;

	text->length += (size_t)sprintf(
		text->data + text->length,
		"%08" PRIx64 "-%08" PRIx64 " %c%c%c%c %08" PRIx64 " %02x:%02x %" PRIu64 " %s\n",
		query->vma_start, query->vma_end, flags & PROCMAP_QUERY_VMA_READABLE ? 'r' : '-',
		flags & PROCMAP_QUERY_VMA_WRITABLE ? 'w' : '-', flags & PROCMAP_QUERY_VMA_EXECUTABLE ? 'x' : '-',
		flags & PROCMAP_QUERY_VMA_SHARED ? 's' : 'p', query->vma_offset, query->dev_major, query->dev_minor,
		query->inode, name);
}

/* What one pass by PROCMAP_QUERY found, written as maps would. */
static int query_on(struct eye *eye)
{
	struct maps_text *text = &eye->text;
	uint64_t address = 0;

	for (;;) {
		char name[256];
		struct procmap_query query = {
			.size = sizeof(query),
			.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA,
			.query_addr = address,
			.vma_name_addr = (uintptr_t)name,
			.vma_name_size = sizeof(name),
		};

		if (ioctl(eye->fd, PROCMAP_QUERY, &query)) {
			if (errno == EINTR)
				continue;
			return errno == ENOENT ? 0 : errno;
		}
		if (text->length + sizeof(name) + 128 >= text->size) {
			kt_fail("the walk does not end: %zu bytes", text->length);
			return EFBIG;
		}
		/* no name at all: its size is 0, and the buffer is as it was */
		if (!query.vma_name_size)
			name[0] = 0;
		write_line(text, &query, name);
		text->reads[text->nr_reads++] = text->length;
		/* pass_line() says what is wrong with it */
		if (query.vma_end <= address)
			return 0;
		address = query.vma_end;
	}
}

/* What remains of a line that was cut off where the pass ended early. */
static void drop_last_part(struct maps_text *text)
{
	while (text->length && text->data[text->length - 1] != '\n')
		text->length--;
	text->data[text->length] = 0;
}

int eye_pass(struct eye *eye, unsigned int *extent)
{
	struct maps_text *text = &eye->text;
	off_t from = 0;
	int error;

	text->length = 0;
	text->nr_reads = 0;
	text->data[0] = 0;
	*extent = FROM_START | TO_END;
	if (eye->view == QUERY)
		return query_on(eye);
	if (eye->how == WHOLE || eye->how == PAGE)
		*extent |= SNAPSHOTS;
	if (eye->how == SEEK && kt_below(&eye->rng, 4)) {
		from = (off_t)kt_below(&eye->rng, eye->last_length + 1);
		if (from)
			*extent &= ~(unsigned int)FROM_START;
	}
	if (eye->how != PREAD && lseek(eye->fd, from, SEEK_SET) < 0)
		return errno;
	error = read_on(eye, eye->how == PREAD);
	if (eye->how == HEAD) {
		*extent &= ~(unsigned int)TO_END;
		drop_last_part(text);
	}
	eye->last_length = (size_t)from + text->length;
	return error;
}

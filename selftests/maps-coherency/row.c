// SPDX-License-Identifier: GPL-2.0-only
#include "row.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define HUGE_SIZE (2UL << 20)
#define LOW_ADDRESS 0x100000UL
#define LOW_END 0x400000UL	/* where a static program begins */

static int prot_of(char letter)
{
	switch (letter) {
	case 'r': return PROT_READ;
	case 'w': return PROT_READ | PROT_WRITE;
	case 'x': return PROT_READ | PROT_WRITE | PROT_EXEC;
	case 'n': return PROT_NONE;
	}
	kt_inconclusive("no protection is called '%c'", letter);
}

static const char *name_of(int letter)
{
	return letter == 'a' ? "coherency-a" : letter == 'b' ? "coherency-b" : NULL;
}

static void parse_layout(const char *text, struct layout *layout)
{
	memset(layout, 0, sizeof(*layout));
	while (*text) {
		struct piece *piece = &layout->piece[layout->nr++];

		if (layout->nr > ROW_PIECES)
			kt_inconclusive("too many pieces in a layout");
		piece->from = (unsigned int)(*text++ - '0');
		piece->to = (unsigned int)(*text++ - '0');
		piece->prot = *text++;
		if (*text && *text != ' ')
			piece->tag = *text++;
		for (unsigned int page = piece->from; page < piece->to; page++)
			layout->mapped |= 1U << page;
		while (*text == ' ')
			text++;
	}
}

void print_layout(const struct layout *layout, char *text, size_t size)
{
	size_t used = 0;

	*text = 0;
	for (unsigned int i = 0; i < layout->nr && used < size; i++) {
		const struct piece *piece = &layout->piece[i];
		int got = snprintf(text + used, size - used, "%s%u%u%c%.1s", i ? " " : "", piece->from,
				   piece->to, piece->prot, &piece->tag);

		used += got > 0 ? (size_t)got : 0;
	}
}

static size_t unit_of(enum backing backing)
{
	/* halves of huge pages, so that a split breaks one up */
	return backing == HUGE ? HUGE_SIZE : backing == THP ? HUGE_SIZE / 2 : kt_page();
}

static const struct plan *plan_of(struct row *row, const struct kind *kind)
{
	struct plan *plan = row->plan;

	for (; plan < row->plan + row->nr_plans; plan++)
		if (plan->kind == kind)
			return plan;
	if (row->nr_plans == KT_ARRAY(row->plan))
		kt_inconclusive("too many kinds in one row");
	row->nr_plans++;
	plan->kind = kind;
	plan->unit = unit_of(kind->backing);
	plan->always = ~0U;
	for (unsigned int i = 0; i <= ROW_STEPS && (!i || kind->steps[i - 1].layout); i++) {
		parse_layout(i ? kind->steps[i - 1].layout : kind->layout, &plan->at[i]);
		plan->always &= plan->at[i].mapped;
		plan->nr++;
	}
	if (memcmp(&plan->at[0], &plan->at[plan->nr - 1], sizeof(plan->at[0])))
		kt_inconclusive("%s does not end where it begins", kind->name);
	return plan;
}

static void open_file(struct row *row, enum backing backing)
{
	struct backing_file *file = &row->file[backing == SHARED_FILE];
	struct stat stat;

	if (file->fd)
		return;
	if (backing == SHARED_FILE) {
		file->fd = memfd_create("coherency", MFD_CLOEXEC);
		snprintf(file->name, sizeof(file->name), "/memfd:coherency (deleted)");
	} else {
		char path[] = "/tmp/coherency-XXXXXX";

		file->fd = mkostemp(path, O_CLOEXEC);
		if (file->fd >= 0)
			unlink(path);
		snprintf(file->name, sizeof(file->name), "%s (deleted)", path);
	}
	if (file->fd < 0 || fstat(file->fd, &stat) ||
	    ftruncate(file->fd, (off_t)(ROW_CELLS * ROW_PIECES * 2 * kt_page())))
		kt_inconclusive("a file to map: %s", strerror(errno));
	file->inode = stat.st_ino;
	file->major = major(stat.st_dev);
	file->minor = minor(stat.st_dev);
}

static uintptr_t reserve(size_t length)
{
	/* lowest of all, so that it is read first; where that is no room, anywhere */
	void *got = MAP_FAILED;

	if (length < LOW_END - LOW_ADDRESS)
		got = mmap((void *)LOW_ADDRESS, length, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	if (got == MAP_FAILED)
		got = kt_map(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	return (uintptr_t)got;
}

/* Addresses from start on; returns the end. */
static uintptr_t lay_out(struct row *row, uintptr_t start)
{
	uintptr_t at = start;

	for (unsigned int i = 0; i < row->nr; i++) {
		struct cell *cell = &row->cell[i];
		size_t unit = cell->plan->unit;

		cell->base = at + kt_page();
		/* two of THP's units are a huge page, which has to be aligned */
		if (unit > kt_page())
			cell->base = (cell->base + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1);
		cell->end = cell->base + cell->plan->kind->pages * unit;
		row->anchor[i] = cell->base - kt_page();
		at = cell->end;
	}
	row->anchor[row->nr] = at;
	return at + kt_page();
}

void row_plan(struct row *row, const struct kind *const *kinds, unsigned int nr_kinds, unsigned int nr)
{
	memset(row, 0, sizeof(*row));
	row->nr = nr;
	for (unsigned int i = 0; i < nr; i++) {
		const struct kind *kind = kinds[i % nr_kinds];
		struct cell *cell = &row->cell[i];

		cell->plan = plan_of(row, kind);
		cell->offset = i * ROW_PIECES * 2 * kt_page();
		if (kind->backing == PRIVATE_FILE || kind->backing == SHARED_FILE)
			open_file(row, kind->backing);
	}
	/* laid out twice: the first time to learn how long it is */
	row->reserved_length = lay_out(row, 0) + HUGE_SIZE;
	row->reserved = reserve(row->reserved_length);
	row->end = lay_out(row, row->reserved);
	row->start = row->anchor[0];
}

/* --- modifying: what fails here is no verdict on the kernel's files --- */

static _Noreturn void gave_up(const struct cell *cell, const char *what)
{
	if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP)
		kt_skip("%s of kind %s: %s", what, cell->plan->kind->name, strerror(errno));
	kt_inconclusive("%s of kind %s, step %u: %s", what, cell->plan->kind->name, cell->step,
			strerror(errno));
}

static char *page_at(const struct cell *cell, unsigned int page)
{
	return (char *)cell->base + page * cell->plan->unit;
}

static void map_piece(const struct row *row, const struct cell *cell, unsigned int from, unsigned int to,
		      int prot)
{
	const struct backing_file *file = cell_file(row, cell);
	int flags = MAP_FIXED | (cell->plan->kind->backing == SHARED_FILE ? MAP_SHARED : MAP_PRIVATE);
	size_t unit = cell->plan->unit;

	if (!file)
		flags |= MAP_ANONYMOUS;
	if (cell->plan->kind->backing == HUGE)
		flags |= MAP_HUGETLB | MAP_NORESERVE | 21 << 26;
	if (cell->plan->kind->backing == STACK)
		flags |= MAP_GROWSDOWN;
	if (mmap(page_at(cell, from), (to - from) * unit, prot, flags, file ? file->fd : -1,
		 file ? (off_t)(cell->offset + from * unit) : 0) == MAP_FAILED) {
		if (cell->plan->kind->backing == HUGE)
			kt_skip("huge pages of 2 MiB cannot be mapped: %s", strerror(errno));
		gave_up(cell, "mmap");
	}
	/* only with something behind the pages does a merge have to look at anon_vma, and a split at tables */
	if (prot & PROT_WRITE && cell->plan->kind->backing != HUGE)
		for (unsigned int page = from; page < to; page++)
			*(volatile char *)page_at(cell, page) = 1;
}

void cell_step(struct row *row, struct cell *cell)
{
	const struct step *step = &cell->plan->kind->steps[cell->step];
	char *from = page_at(cell, step->from);
	size_t length = (step->to - step->from) * cell->plan->unit;
	unsigned long node = 1;

	switch (step->op) {
	case PROTECT:
		if (mprotect(from, length, prot_of((char)step->arg)))
			gave_up(cell, "mprotect");
		break;
	case MAP:
		map_piece(row, cell, step->from, step->to, prot_of((char)step->arg));
		break;
	case UNMAP:
		if (munmap(from, length))
			gave_up(cell, "munmap");
		break;
	case MOVE:
		if (mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED,
			   page_at(cell, (unsigned int)step->arg)) == MAP_FAILED)
			gave_up(cell, "mremap");
		break;
	case KEEP_MOVE:
		if (mremap(from, length, length, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
			   page_at(cell, (unsigned int)step->arg)) == MAP_FAILED)
			gave_up(cell, "mremap with MREMAP_DONTUNMAP");
		break;
	case RESIZE:
		if (mremap(from, length, ((unsigned int)step->arg - step->from) * cell->plan->unit, 0) ==
		    MAP_FAILED)
			gave_up(cell, "mremap in place");
		break;
	case ADVISE:
		if (madvise(from, length, step->arg))
			gave_up(cell, "madvise");
		break;
	case NAME:
		if (kt_name(from, length, name_of(step->arg)))
			gave_up(cell, "PR_SET_VMA_ANON_NAME");
		break;
	case BIND:
		if (syscall(SYS_mbind, from, length, step->arg ? MPOL_BIND : MPOL_DEFAULT,
			    step->arg ? &node : NULL, step->arg ? 64UL : 0UL, 0U))
			gave_up(cell, "mbind");
		break;
	case TOUCH:
		*(volatile char *)from = 1;
		break;
	}
	if (++cell->step == cell->plan->nr - 1)
		cell->step = 0;
}

const struct layout *cell_layout(const struct cell *cell)
{
	return &cell->plan->at[cell->step];
}

void row_build(struct row *row)
{
	if (munmap((void *)row->reserved, row->reserved_length))
		kt_inconclusive("munmap: %s", strerror(errno));
	for (unsigned int i = 0; i <= row->nr; i++)
		kt_map((void *)row->anchor[i], kt_page(), PROT_READ | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1);
	for (unsigned int i = 0; i < row->nr; i++) {
		struct cell *cell = &row->cell[i];
		const struct layout *layout = cell_layout(cell);
		unsigned int first = layout->piece[0].from, last = layout->piece[layout->nr - 1].to;

		/* as one piece first: only what was one mapping has one anon_vma, and merges again */
		map_piece(row, cell, first, last, PROT_READ | PROT_WRITE);
		if (cell->plan->kind->backing == THP &&
		    madvise(page_at(cell, first), (last - first) * cell->plan->unit, MADV_HUGEPAGE))
			kt_skip("no transparent huge pages: %s", strerror(errno));
		for (unsigned int piece = 0; piece < layout->nr; piece++) {
			const struct piece *p = &layout->piece[piece];
			unsigned int hole = piece ? layout->piece[piece - 1].to : first;
			size_t length = (p->to - p->from) * cell->plan->unit;

			if (hole < p->from && munmap(page_at(cell, hole), (p->from - hole) * cell->plan->unit))
				gave_up(cell, "munmap");
			if (p->prot != 'w' && mprotect(page_at(cell, p->from), length, prot_of(p->prot)))
				gave_up(cell, "mprotect");
			if (p->tag && kt_name(page_at(cell, p->from), length, name_of(p->tag)))
				gave_up(cell, "PR_SET_VMA_ANON_NAME");
		}
	}
}

/* --- how it is to be seen --- */

const struct backing_file *cell_file(const struct row *row, const struct cell *cell)
{
	switch (cell->plan->kind->backing) {
	case PRIVATE_FILE: return &row->file[0];
	case SHARED_FILE: return &row->file[1];
	default: return NULL;
	}
}

void piece_perms(const struct cell *cell, const struct piece *piece, char perms[5])
{
	int prot = prot_of(piece->prot);

	perms[0] = prot & PROT_READ ? 'r' : '-';
	perms[1] = prot & PROT_WRITE ? 'w' : '-';
	perms[2] = prot & PROT_EXEC ? 'x' : '-';
	perms[3] = cell->plan->kind->backing == SHARED_FILE ? 's' : 'p';
	perms[4] = 0;
}

const char *piece_name(const struct cell *cell, const struct piece *piece)
{
	if (cell->plan->kind->backing == HUGE)
		return "/anon_hugepage (deleted)";
	switch (piece->tag) {
	case 'a': return "[anon:coherency-a]";
	case 'b': return "[anon:coherency-b]";
	default: return "";
	}
}

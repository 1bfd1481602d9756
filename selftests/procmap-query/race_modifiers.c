// SPDX-License-Identifier: GPL-2.0-only
#include "race_modifiers.h"

#include <errno.h>
#include <sys/mman.h>

#define R PROT_READ
#define RW (PROT_READ | PROT_WRITE)

static char *page_at(const struct range *range, unsigned int page)
{
	return range->at + page * kt_page();
}

static int protect(const struct range *range, unsigned int page, unsigned int pages, int prot)
{
	return mprotect(page_at(range, page), pages * kt_page(), prot) ? errno : 0;
}

static int map(const struct range *range, unsigned int page, unsigned int pages, int prot, int flags, int fd,
	       unsigned int offset)
{
	void *got = mmap(page_at(range, page), pages * kt_page(), prot, flags | MAP_FIXED, fd,
			 (off_t)(offset * kt_page()));

	return got == MAP_FAILED ? errno : 0;
}

static int map_anonymous(const struct range *range, unsigned int page, unsigned int pages, int prot)
{
	return map(range, page, pages, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Nothing is ever written to it: memory that has been would not always become one mapping again. */
static void prepare_anonymous(const struct range *range)
{
	map_anonymous(range, 0, RANGE_PAGES, RW);
}

static int step_split(const struct range *range, unsigned int number)
{
	switch (number) {
	case 0: return protect(range, 0, 1, R);
	case 1: return protect(range, 0, 1, RW);
	case 2: return protect(range, 2, 2, R);
	case 3: return protect(range, 2, 2, RW);
	case 4: return protect(range, RANGE_PAGES - 1, 1, R);
	case 5: return protect(range, RANGE_PAGES - 1, 1, RW);
	case 6: return protect(range, 0, RANGE_PAGES, PROT_NONE);
	default: return protect(range, 0, RANGE_PAGES, RW);
	}
}

const struct modifier modify_split = { "split", prepare_anonymous, step_split, 8, false, false };

/* The mapping shrinks from its front, and another one takes the place before it; the same at its end. */
static int step_front(const struct range *range, unsigned int number)
{
	switch (number) {
	case 0: return map_anonymous(range, 0, 1, R);
	case 1: return map_anonymous(range, 1, 1, R);
	case 2: return map_anonymous(range, 0, 2, RW);
	case 3: return map_anonymous(range, RANGE_PAGES - 2, 2, R);
	case 4: return map_anonymous(range, 1, RANGE_PAGES - 2, PROT_NONE);
	default: return map_anonymous(range, 0, RANGE_PAGES, RW);
	}
}

const struct modifier modify_front = { "front", prepare_anonymous, step_front, 6, false, false };

static void prepare_replace(const struct range *range)
{
	map(range, 0, RANGE_PAGES, R, MAP_PRIVATE, range->file[0], 0);
}

static int step_replace(const struct range *range, unsigned int number)
{
	switch (number) {
	case 0: return map(range, 0, RANGE_PAGES, RW, MAP_SHARED, range->file[1], 5);
	case 1: return map_anonymous(range, 0, RANGE_PAGES, RW);
	case 2: return map(range, 2, 2, R, MAP_SHARED, range->file[1], 9);
	case 3: return map(range, 2, 2, R, MAP_PRIVATE, range->file[0], 2);
	default: return map(range, 0, RANGE_PAGES, R, MAP_PRIVATE, range->file[0], 0);
	}
}

const struct modifier modify_replace = { "replace", prepare_replace, step_replace, 5, false, false };

static void prepare_boundary(const struct range *range)
{
	map(range, 0, RANGE_PAGES, RW, MAP_PRIVATE, range->file[0], 3);
	protect(range, 0, RANGE_PAGES / 2, R);
}

/* The end of one and the start of the other move together, and the other's offset in the file with it. */
static int step_boundary(const struct range *range, unsigned int number)
{
	switch (number) {
	case 0: return protect(range, 3, 1, R);
	case 1: return protect(range, 4, 1, R);
	case 2: return protect(range, 3, 2, RW);
	case 3: return protect(range, 2, 1, RW);
	case 4: return protect(range, 1, 1, RW);
	default: return protect(range, 1, 2, R);
	}
}

const struct modifier modify_boundary = { "boundary", prepare_boundary, step_boundary, 6, false, false };

static int step_name(const struct range *range, unsigned int number)
{
	size_t half = RANGE_PAGES / 2 * kt_page(), whole = 2 * half;

	switch (number) {
	case 0: return kt_name(range->at, whole, "short");
	case 1: return kt_name(range->at, whole, "a name that is much longer than the other ones");
	case 2: return kt_name(range->at, half, "first half");
	case 3: return kt_name(range->at + half, half, NULL);
	default: return kt_name(range->at, whole, NULL);
	}
}

const struct modifier modify_name = { "name", prepare_anonymous, step_name, 5, false, true };

static void prepare_hole(const struct range *range)
{
	map_anonymous(range, 0, RANGE_PAGES, RW);
	munmap(page_at(range, 2), 2 * kt_page());
}

static int step_hole(const struct range *range, unsigned int number)
{
	switch (number) {
	case 0: return map_anonymous(range, 2, 2, R);
	case 1: return munmap(page_at(range, 2), kt_page()) ? errno : 0;
	case 2: return map(range, 2, 1, R, MAP_SHARED, range->file[1], 1);
	case 3: return munmap(page_at(range, 3), kt_page()) ? errno : 0;
	default: return munmap(page_at(range, 2), kt_page()) ? errno : 0;
	}
}

const struct modifier modify_hole = { "hole", prepare_hole, step_hole, 5, true, false };

// SPDX-License-Identifier: GPL-2.0-only
#include "check.h"
#include "records.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define AROUND 6	/* lines shown before and behind an offending one */
#define NEVER_HAD "%s: a mapping of the cell at %#" PRIxPTR " that it never had"

struct policy policy_of(enum view view)
{
	/* where the symbols are hidden nobody knows: expect no more than the weaker promise */
	bool locks = kt_per_vma_lock() != 0;

	switch (view) {
	case MAPS: return (struct policy){ .lockless = locks && kt_kernel_since(6, 17),
					   .gaps = locks && kt_kernel_since(6, 17) };
	case QUERY: return (struct policy){ .lockless = locks && kt_kernel_since(6, 18) };
	case SMAPS:
	case NUMA_MAPS: return (struct policy){ .lockless = locks && kt_kernel_since(7, 2) };
	case ROLLUP: break;
	}
	return (struct policy){ .lockless = false };
}

static const char *lines_before(const char *begin, const char *at, unsigned int lines)
{
	while (at > begin && (at[-1] != '\n' || lines--))
		at--;
	return at;
}

static const char *lines_behind(const char *at, const char *end, unsigned int lines)
{
	while (at < end && (*at++ != '\n' || lines--))
		;
	return at;
}

void complain(struct pass *pass, enum fault fault, const char *at, const char *format, ...)
{
	const char *data = pass->text->data, *end = data + pass->text->length, *from, *to;
	struct check *check = pass->check;
	char said[200];
	va_list arguments;

	check->faults[fault]++;
	if (check->quiet || (fault == BEHIND && !check->judge_behind))
		return;
	va_start(arguments, format);
	vsnprintf(said, sizeof(said), format, arguments);
	va_end(arguments);
	from = lines_before(data, at, AROUND);
	to = lines_behind(at, end, AROUND);
	kt_fail_text(from, (size_t)(to - from), "%s (pass of %zu bytes in %zu reads)", said, pass->text->length,
		     pass->text->nr_reads);
}

/* Which read() a place of the text is from; places are asked for in order. */
static size_t read_of(struct pass *pass, const char *at)
{
	size_t offset = (size_t)(at - pass->text->data);

	while (pass->read < pass->text->nr_reads && pass->text->reads[pass->read] <= offset)
		pass->read++;
	return pass->read;
}

static bool same_read(struct pass *pass, const char *at, size_t length)
{
	size_t first = read_of(pass, at);

	return first == read_of(pass, at + length - 1);
}

/* --- the elements of the row, in order: anchor 0, cell 0, anchor 1, ... --- */

static unsigned int elements(const struct row *row)
{
	return 2 * row->nr + 1;
}

static uintptr_t element_start(const struct row *row, unsigned int i)
{
	return i % 2 ? row->cell[i / 2].base : row->anchor[i / 2];
}

static uintptr_t element_end(const struct row *row, unsigned int i)
{
	return i % 2 ? row->cell[i / 2].end : row->anchor[i / 2] + kt_page();
}

static bool same_layout(const struct layout *layout, const struct piece *seen, unsigned int nr)
{
	if (layout->nr != nr)
		return false;
	for (unsigned int i = 0; i < nr; i++)
		if (layout->piece[i].from != seen[i].from || layout->piece[i].to != seen[i].to ||
		    layout->piece[i].prot != seen[i].prot || layout->piece[i].tag != seen[i].tag)
			return false;
	return true;
}

/* Whether a mapping of the cell ever reached over the beginning of this page. */
static bool ever_spanned(const struct cell *cell, unsigned int page)
{
	for (unsigned int i = 0; i < cell->plan->nr; i++)
		for (unsigned int p = 0; p < cell->plan->at[i].nr; p++)
			if (cell->plan->at[i].piece[p].from < page && page < cell->plan->at[i].piece[p].to)
				return true;
	return false;
}

/*
 * lock_next_vma() goes on behind what it found in the tree, not behind what it reported. A mapping that
 * became shorter or longer in between hides what is between the two: something behind a mapping that was
 * shown, from a place on that it reached over before or afterwards, and inside the cell, for an anchor has
 * one length.
 */
static bool known_gap(struct pass *pass, const struct cell *cell, unsigned int page)
{
	uint32_t shown_before = pass->covered & ((1U << page) - 1);

	if (!pass->check->policy.gaps || !shown_before)
		return false;
	/* what is unmapped now and then may be missing as well, before the page that may not */
	for (unsigned int from = 32 - (unsigned int)__builtin_clz(shown_before); from <= page; from++)
		if (ever_spanned(cell, from))
			return true;
	return false;
}

static void judge_missing(struct pass *pass, const struct cell *cell, const char *at)
{
	uint32_t missing = cell->plan->always & ~pass->covered;
	struct check *check = pass->check;
	unsigned int first;

	/* of which mapping a page is, numa_maps tells of the first one only */
	if (check->view == NUMA_MAPS)
		missing &= 1;
	if (!missing)
		return;
	first = (unsigned int)__builtin_ctz(missing);
	if (cell->plan->kind->holes && check->policy.lockless) {
		check->holes++;
		return;
	}
	complain(pass, known_gap(pass, cell, first) ? BEHIND : GAP, at,
		 "%s: page %u of the cell at %#" PRIxPTR " was mapped all the time and is missing",
		 cell->plan->kind->name, first, cell->base);
}

/* One read() that began and ended outside of the cell saw it in one state, if mmap_lock was held. */
static void judge_snapshot(struct pass *pass, const struct cell *cell, const char *at)
{
	if (pass->check->policy.lockless || !pass->one_read || pass->check->view == NUMA_MAPS)
		return;
	for (unsigned int i = 0; i < cell->plan->nr; i++)
		if (same_layout(&cell->plan->at[i], pass->seen, pass->nr_seen))
			return;
	complain(pass, OVERLAP, at, "%s: the cell at %#" PRIxPTR " never looked like this as a whole",
		 cell->plan->kind->name, cell->base);
}

/* Behind an element, seen or not. */
static void leave(struct pass *pass, unsigned int i, const char *at)
{
	const struct row *row = pass->check->row;

	if (i % 2) {
		judge_missing(pass, &row->cell[i / 2], at);
		/* covered by the read that has both anchors */
		if (read_of(pass, at) != pass->anchor_read)
			pass->one_read = false;
		judge_snapshot(pass, &row->cell[i / 2], at);
		pass->covered = 0;
		pass->nr_seen = 0;
	} else if (pass->seen_anchor != i / 2 + 1) {
		complain(pass, ANCHOR, at, "the mapping at %#" PRIxPTR " was there all the time and is missing",
			 row->anchor[i / 2]);
	}
}

static bool fits(const struct row *row, const struct cell *cell, const struct piece *piece,
		 const struct maps_line *line)
{
	const struct backing_file *file = cell_file(row, cell);
	char perms[5];

	piece_perms(cell, piece, perms);
	if (strcmp(line->perms, perms))
		return false;
	if (file)
		return line->offset == cell->offset + piece->from * kt_page() && line->inode == file->inode &&
		       line->major == file->major && line->minor == file->minor && maps_named(line, file->name);
	if (cell->plan->kind->backing == HUGE)
		return line->inode && line->offset == piece->from * cell->plan->unit &&
		       maps_named(line, piece_name(cell, piece));
	return !line->offset && !line->inode && !line->major && !line->minor &&
	       maps_named(line, piece_name(cell, piece));
}

/* The piece of the cell that this line shows, of any of its layouts; NULL: none. */
static const struct piece *piece_of(const struct row *row, const struct cell *cell,
				    const struct maps_line *line)
{
	for (unsigned int i = 0; i + 1 < cell->plan->nr; i++) {
		const struct layout *layout = &cell->plan->at[i];

		for (unsigned int p = 0; p < layout->nr; p++)
			if (line->start == cell->base + layout->piece[p].from * cell->plan->unit &&
			    line->end == cell->base + layout->piece[p].to * cell->plan->unit &&
			    fits(row, cell, &layout->piece[p], line))
				return &layout->piece[p];
	}
	return NULL;
}

static void in_cell(struct pass *pass, const struct cell *cell, const struct maps_line *line)
{
	const struct piece *piece = piece_of(pass->check->row, cell, line);

	if (!piece) {
		complain(pass, MIXED, line->text, NEVER_HAD, cell->plan->kind->name, cell->base);
		return;
	}
	for (unsigned int page = piece->from; page < piece->to; page++)
		pass->covered |= 1U << page;
	if (pass->nr_seen < ROW_PIECES)
		pass->seen[pass->nr_seen++] = *piece;
	if (!same_read(pass, line->text, line->length) || pass->read != pass->anchor_read)
		pass->one_read = false;
}

static void at_anchor(struct pass *pass, unsigned int nr, const struct maps_line *line)
{
	const struct row *row = pass->check->row;

	if (pass->seen_anchor == nr + 1)
		complain(pass, ANCHOR, line->text, "a mapping that never changed is shown twice");
	else if (line->start != row->anchor[nr] || line->end != row->anchor[nr] + kt_page() ||
		 strcmp(line->perms, "r-xp") || line->offset || line->inode || line->name_length)
		complain(pass, ANCHOR, line->text,
			 "the mapping at %#" PRIxPTR " never changed and is not shown as it is", row->anchor[nr]);
	pass->seen_anchor = nr + 1;
	pass->one_read = pass->extent & SNAPSHOTS && same_read(pass, line->text, line->length);
	pass->anchor_read = pass->read;
}

/* Go on to the element that holds this address, or the one behind it; leave those before. */
static void advance(struct pass *pass, uint64_t start, const char *at)
{
	const struct row *row = pass->check->row;

	while (pass->element < elements(row) && element_end(row, pass->element) <= start) {
		if (pass->element >= pass->judged_from)
			leave(pass, pass->element, at);
		pass->element++;
	}
	if (pass->judged_from == UINT32_MAX) {
		/* the text began before this line: of a cell that it is in, the first part may be missing */
		bool inside = pass->element < elements(row) && element_start(row, pass->element) <= start;

		pass->judged_from = pass->element + (inside && pass->element % 2);
	}
}

static void in_row(struct pass *pass, const struct maps_line *line)
{
	const struct row *row = pass->check->row;

	advance(pass, line->start, line->text);
	/* strangers lie before, behind, and where alignment left a hole */
	if (pass->element == elements(row) || line->end <= element_start(row, pass->element))
		return;
	if (line->start < element_start(row, pass->element) || line->end > element_end(row, pass->element)) {
		complain(pass, MIXED, line->text, "a mapping across a border that no mapping ever crossed");
		return;
	}
	if (pass->element % 2)
		in_cell(pass, &row->cell[pass->element / 2], line);
	else
		at_anchor(pass, pass->element / 2, line);
}

/* --- numa_maps: no ends, so of a cell only its beginning can be missing --- */

static bool starts_cell(const struct cell *cell, uint64_t start, const char *policy)
{
	for (unsigned int i = 0; i + 1 < cell->plan->nr; i++) {
		const struct layout *layout = &cell->plan->at[i];

		for (unsigned int p = 0; p < layout->nr; p++)
			if (start == cell->base + layout->piece[p].from * cell->plan->unit &&
			    !strcmp(policy, layout->piece[p].tag == 'B' ? "bind:0" : "default"))
				return true;
	}
	return false;
}

void pass_start(struct pass *pass, uint64_t start, const char *policy, const char *at, size_t length)
{
	const struct row *row = pass->check->row;
	struct check *check = pass->check;

	check->lines++;
	if (!check->policy.lockless && pass->extent & SNAPSHOTS && read_of(pass, at) == pass->last_read &&
	    start <= pass->last_start)
		complain(pass, OVERLAP, at, "a start that is not above the one before, inside one read()");
	if (start <= pass->last_start)
		check->repeated++;
	pass->last_start = start;
	pass->last_read = read_of(pass, at + length);
	if (!row)
		return;
	advance(pass, start, at);
	if (pass->element == elements(row))
		return;
	if (start < element_start(row, pass->element)) {
		/* below the element where an earlier line was already */
		if (pass->element && start < element_end(row, pass->element - 1))
			complain(pass, ORDER, at, "a start below a mapping that was shown and never changed");
		return;
	}
	if (pass->element % 2) {
		const struct cell *cell = &row->cell[pass->element / 2];

		if (!starts_cell(cell, start, policy))
			complain(pass, MIXED, at, NEVER_HAD, cell->plan->kind->name, cell->base);
		pass->covered |= start == cell->base;
		return;
	}
	if (pass->seen_anchor == pass->element / 2 + 1)
		complain(pass, ANCHOR, at, "a mapping that never changed is shown twice");
	else if (start != row->anchor[pass->element / 2] || strcmp(policy, "default"))
		complain(pass, ANCHOR, at, "a mapping that never changed is not shown as it is");
	pass->seen_anchor = pass->element / 2 + 1;
}

void pass_line(struct pass *pass, const struct maps_line *line)
{
	struct check *check = pass->check;

	check->lines++;
	if (line->end <= pass->last_end) {
		complain(pass, ORDER, line->text, "an end that is not above the one before");
		return;
	}
	if (line->start < pass->last_end) {
		check->repeated++;
		if (!check->policy.lockless && pass->extent & SNAPSHOTS &&
		    read_of(pass, line->text) == pass->last_read)
			complain(pass, OVERLAP, line->text, "mappings that overlap inside one read()");
	}
	pass->last_end = line->end;
	if (check->row)
		in_row(pass, line);
	pass->last_read = read_of(pass, line->text + line->length);
}

static void finish(struct pass *pass)
{
	const struct row *row = pass->check->row;
	const char *end = pass->text->data + pass->text->length;

	if (!(pass->extent & TO_END) || !row)
		return;
	for (; pass->element < elements(row); pass->element++)
		if (pass->element >= pass->judged_from)
			leave(pass, pass->element, end);
}

void check_pass(struct check *check, const struct maps_text *text, unsigned int extent)
{
	struct pass pass = {
		.check = check,
		.text = text,
		.extent = extent,
		.judged_from = extent & FROM_START ? 0 : UINT32_MAX,
		.last_read = SIZE_MAX,
		.anchor_read = SIZE_MAX,
	};
	size_t at = 0;

	if (!(extent & FROM_START)) {
		const char *newline = memchr(text->data, '\n', text->length);

		at = newline ? (size_t)(newline - text->data) + 1 : text->length;
	}
	switch (check->view) {
	case MAPS:
	case QUERY: maps_records(&pass, at); break;
	case SMAPS: smaps_records(&pass, at); break;
	case NUMA_MAPS: numa_records(&pass, at); break;
	case ROLLUP: rollup_record(&pass); return;
	}
	finish(&pass);
}

bool check_layout(const struct row *row, const struct cell *cell, const struct maps_text *text)
{
	const struct layout *layout = cell_layout(cell);
	struct maps_line line;
	unsigned int nr = 0;
	const char *why;
	size_t at = 0;

	while (maps_next(text, &at, &line, &why) == 1) {
		const struct piece *piece;

		if (line.end <= cell->base || line.start >= cell->end)
			continue;
		piece = nr < layout->nr ? &layout->piece[nr] : NULL;
		if (!piece || line.start != cell->base + piece->from * cell->plan->unit ||
		    line.end != cell->base + piece->to * cell->plan->unit || !fits(row, cell, piece, &line))
			return false;
		nr++;
	}
	return nr == layout->nr;
}

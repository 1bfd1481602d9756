// SPDX-License-Identifier: GPL-2.0-only
#include "procmap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int pm_ask(int fd, const struct pm_ask *ask, struct procmap_query *query)
{
	/* what the kernel leaves as it was shows */
	memset(query, 0x5a, sizeof(*query));
	query->size = sizeof(*query);
	query->query_flags = ask->flags;
	query->query_addr = ask->addr;
	query->vma_name_size = ask->name_size;
	query->vma_name_addr = ask->name_size ? (uintptr_t)ask->name : 0;
	query->build_id_size = ask->id_size;
	query->build_id_addr = ask->id_size ? (uintptr_t)ask->id : 0;
	return ioctl(fd, PROCMAP_QUERY, query) ? errno : 0;
}

bool pm_too_small(int error)
{
	return error == ENAMETOOLONG || error == E2BIG;
}

int pm_open(pid_t pid)
{
	struct pm_ask ask = { .flags = PM_NEXT };
	struct procmap_query query;
	char path[64];
	int fd, error;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	else
		snprintf(path, sizeof(path), "/proc/self/maps");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		kt_inconclusive("%s: %s", path, strerror(errno));
	error = pm_ask(fd, &ask, &query);
	if (error == ENOTTY && !kt_kernel_since(6, 11))
		kt_skip("this kernel has no PROCMAP_QUERY; it came with 6.11");
	if (error == ENOTTY) {
		kt_fail("PROCMAP_QUERY on %s: %s", path, strerror(error));
		_exit(0);
	}
	return fd;
}

static uint32_t flags_of(const struct maps_line *line)
{
	uint32_t flags = 0;

	flags |= line->perms[0] == 'r' ? PM_R : 0;
	flags |= line->perms[1] == 'w' ? PM_W : 0;
	flags |= line->perms[2] == 'x' ? PM_X : 0;
	flags |= line->perms[3] == 's' ? PM_S : 0;
	flags |= line->inode || line->major || line->minor ? PM_FILE : 0;
	return flags;
}

/* The text has a newline of a name as \012, and escapes nothing else. */
static size_t unescape(char *to, const char *from, size_t length)
{
	size_t written = 0;

	for (size_t i = 0; i < length; i++) {
		if (length - i >= 4 && !memcmp(from + i, "\\012", 4)) {
			to[written++] = '\n';
			i += 3;
		} else {
			to[written++] = from[i];
		}
	}
	to[written] = 0;
	return written;
}

static void room(struct areas *areas, size_t lines)
{
	if (lines > areas->max) {
		areas->max = 2 * lines;
		free(areas->area);
		areas->area = malloc(areas->max * sizeof(*areas->area));
	}
	free(areas->names);
	/* each name has at least its newline to spare for the NUL */
	areas->names = malloc(areas->text.length + 1);
	if (!areas->area || !areas->names)
		kt_inconclusive("no memory");
}

void areas_read(struct areas *areas, int fd)
{
	size_t at = 0, lines = 0, used = 0;
	struct maps_line line;
	const char *why;
	int error, got;

	if (lseek(fd, 0, SEEK_SET))
		kt_inconclusive("lseek of maps: %s", strerror(errno));
	error = maps_read(fd, 65536, &areas->text);
	if (error)
		kt_inconclusive("reading maps: %s", strerror(error));
	for (size_t i = 0; i < areas->text.length; i++)
		lines += areas->text.data[i] == '\n';
	room(areas, lines + 1);
	areas->nr = 0;
	areas->has_gate = false;
	while ((got = maps_next(&areas->text, &at, &line, &why)) != 0) {
		struct area *area = &areas->area[areas->nr];

		if (got < 0) {
			kt_fail_text(line.text, line.length, "a line of maps cannot be parsed: %s", why);
			_exit(0);
		}
		*area = (struct area){
			.start = line.start, .end = line.end, .offset = line.offset, .inode = line.inode,
			.major = line.major, .minor = line.minor, .flags = flags_of(&line),
			.name = areas->names + used, .text = line.text, .length = line.length,
		};
		area->name_length = unescape(areas->names + used, line.name, line.name_length);
		used += area->name_length + 1;
		if (maps_named(&line, "[vsyscall]")) {
			areas->has_gate = true;
			areas->gate = *area;
		} else {
			areas->nr++;
		}
	}
}

void areas_settle(struct areas *areas, int fd)
{
	for (int i = 0; i < 3; i++)
		areas_read(areas, fd);
}

void areas_unchanged(const struct areas *areas, struct areas *again, int fd)
{
	areas_read(again, fd);
	if (again->text.length != areas->text.length ||
	    memcmp(again->text.data, areas->text.data, areas->text.length))
		kt_inconclusive("the address space changed although nobody was to change it");
}

void areas_free(struct areas *areas)
{
	maps_free(&areas->text);
	free(areas->area);
	free(areas->names);
	memset(areas, 0, sizeof(*areas));
}

bool area_passes(const struct area *area, uint64_t flags)
{
	return (area->flags & flags & PM_FILTER) == (flags & PM_FILTER);
}

const struct area *areas_find(const struct areas *areas, uint64_t addr, uint64_t flags)
{
	size_t low = 0, high = areas->nr;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (areas->area[middle].end > addr)
			high = middle;
		else
			low = middle + 1;
	}
	if (!(flags & PM_NEXT)) {
		const struct area *area = &areas->area[low];

		return low < areas->nr && area->start <= addr && area_passes(area, flags) ? area : NULL;
	}
	for (; low < areas->nr; low++)
		if (area_passes(&areas->area[low], flags))
			return &areas->area[low];
	return NULL;
}

const struct area *areas_named(const struct areas *areas, const char *name)
{
	for (size_t i = 0; i < areas->nr; i++)
		if (!strcmp(areas->area[i].name, name))
			return &areas->area[i];
	return NULL;
}

static const char *name_differs(const struct area *area, const struct pm_ask *ask,
				const struct procmap_query *query)
{
	const char *name = ask->name;

	if (!area->name_length)
		return query->vma_name_size ? "vma_name_size, for there is no name" : NULL;
	if (query->vma_name_size != area->name_length + 1)
		return "vma_name_size";
	return memcmp(name, area->name, area->name_length) || name[area->name_length] ? "the name" : NULL;
}

const char *pm_differs(const struct area *area, const struct pm_ask *ask, const struct procmap_query *query)
{
	if (query->size != sizeof(*query) || query->query_flags != ask->flags || query->query_addr != ask->addr)
		return "a field of the question";
	if (query->vma_start != area->start)
		return "vma_start";
	if (query->vma_end != area->end)
		return "vma_end";
	if (query->vma_flags != (area->flags & PM_PERMS))
		return "vma_flags";
	if (query->vma_offset != area->offset)
		return "vma_offset";
	if (query->inode != area->inode)
		return "inode";
	if (query->dev_major != area->major || query->dev_minor != area->minor)
		return "the device";
	if (!query->vma_page_size || (query->vma_page_size & (query->vma_page_size - 1)) ||
	    query->vma_page_size < kt_page())
		return "vma_page_size, which is no page's";
	if (!ask->name_size)
		return query->vma_name_size ? "vma_name_size, for none was asked" : NULL;
	return name_differs(area, ask, query);
}

const char *pm_text(const struct pm_ask *ask, const struct procmap_query *query, int error, char *text,
		    size_t size)
{
	int used;

	if (error) {
		snprintf(text, size, "%s", strerrorname_np(error) ? strerrorname_np(error) : strerror(error));
		return text;
	}
	used = snprintf(text, size, "%" PRIx64 "-%" PRIx64 " %c%c%c%c %" PRIx64 " %x:%x %" PRIu64 " page %" PRIx64,
			query->vma_start, query->vma_end, query->vma_flags & PM_R ? 'r' : '-',
			query->vma_flags & PM_W ? 'w' : '-', query->vma_flags & PM_X ? 'x' : '-',
			query->vma_flags & PM_S ? 's' : 'p', query->vma_offset, query->dev_major, query->dev_minor,
			query->inode, query->vma_page_size);
	if (ask->name_size && used > 0 && (size_t)used < size)
		snprintf(text + used, size - (size_t)used, " name(%u) %.*s", query->vma_name_size,
			 query->vma_name_size && query->vma_name_size < 100 ? (int)query->vma_name_size - 1 : 0,
			 (const char *)ask->name);
	return text;
}

void pm_wrong(const struct areas *areas, const struct area *area, const struct pm_ask *ask,
	      const struct procmap_query *query, int error, const char *what)
{
	const char *from = "", *to = from;
	char answer[300];

	if (areas->nr) {
		const struct area *first = areas->area, *last = first + areas->nr - 1, *low = area, *high = area;

		if (!area)
			for (low = high = first; high < last && high->end <= ask->addr; high++)
				low = high;
		from = (low > first ? low - 1 : low)->text;
		high = high < last ? high + 1 : high;
		to = high->text + high->length;
	}
	kt_fail_text(from, (size_t)(to - from), "%s: address %" PRIx64 ", flags %" PRIx64 ", answer %s", what,
		     ask->addr, ask->flags, pm_text(ask, query, error, answer, sizeof(answer)));
}

void pm_check(struct pm_checker *checker, uint64_t addr, uint64_t flags)
{
	struct pm_ask ask = { .addr = addr, .flags = flags, .name = checker->name,
			      .name_size = sizeof(checker->name) };
	const struct area *area = areas_find(checker->areas, addr, flags);
	struct procmap_query query;
	const char *field;
	int error = pm_ask(checker->fd, &ask, &query);

	checker->asked++;
	if (!area) {
		if (error != ENOENT)
			pm_wrong(checker->areas, NULL, &ask, &query, error, "nothing was to be found");
		return;
	}
	checker->found += !error;
	if (error) {
		pm_wrong(checker->areas, area, &ask, &query, error, "a mapping was not found");
		return;
	}
	field = pm_differs(area, &ask, &query);
	if (field) {
		char what[80];

		snprintf(what, sizeof(what), "wrong in %s", field);
		pm_wrong(checker->areas, area, &ask, &query, error, what);
	}
}

// SPDX-License-Identifier: GPL-2.0-only
/* What is found: every line of maps, every filter, every border, on an address space that nobody changes. */
#include "cases.h"
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define VSYSCALL 0xffffffffff600000ULL

static struct fixture fixture;
static struct target target;
static struct areas areas, again;
static struct pm_checker checker;

/* All the mappings, their text, and a checker for it. */
static void begin(bool other)
{
	fixture_directory(&fixture);
	fixture_map(&fixture, kt_seed());
	if (other)
		target_start(&target, &fixture);
	checker.fd = pm_open(other ? target.pid : 0);
	checker.areas = &areas;
	areas_settle(&again, checker.fd);
	areas_settle(&areas, checker.fd);
}

static void end(void)
{
	areas_unchanged(&areas, &again, checker.fd);
	if (target.pid)
		target_end(&target);
	fixture_remove(&fixture);
	kt_work("queries", checker.asked, 10);
}

/* Where the machine has no page that can only be written, one is readable as well, and told so. */
static uint64_t flags_of_writable(void)
{
	const struct area *area = NULL;

	for (unsigned int i = 0; i < fixture.nr && !area; i++)
		if (fixture.piece[i].prot == PROT_WRITE)
			area = areas_find(&areas, (uintptr_t)fixture.piece[i].at, 0);
	return area ? area->flags & (PM_R | PM_W) : PM_W;
}

void answers_known(const void *arg)
{
	uint64_t known = 0, writable;

	(void)arg;
	begin(false);
	writable = flags_of_writable();
	for (unsigned int i = 0; i < fixture.nr; i++) {
		const struct piece *piece = &fixture.piece[i];
		uint64_t at = (uintptr_t)piece->at;
		struct area area = {
			.start = at, .end = at + piece->length, .inode = piece->inode, .major = piece->major,
			.minor = piece->minor, .offset = piece->offset, .name = piece->name,
			.name_length = strlen(piece->name),
		};
		struct pm_ask ask = { .addr = at + piece->length / 2, .name = checker.name,
				      .name_size = sizeof(checker.name) };
		struct procmap_query query;
		int error = pm_ask(checker.fd, &ask, &query);
		const char *field;

		area.flags |= (piece->prot & PROT_READ ? PM_R : 0) | (piece->prot & PROT_WRITE ? writable : 0) |
			      (piece->prot & PROT_EXEC ? PM_X : 0) | (piece->flags & MAP_SHARED ? PM_S : 0);
		checker.asked++;
		if (!error && piece->file && !piece->inode && query.inode) {
			/* not told by stat(); only that there is one is known */
			area.inode = query.inode;
			area.major = query.dev_major;
			area.minor = query.dev_minor;
		}
		known += !piece->file || piece->inode;
		field = error ? "everything" : pm_differs(&area, &ask, &query);
		if (!field && query.vma_page_size != kt_page())
			field = "vma_page_size";
		if (field) {
			char what[400];

			snprintf(what, sizeof(what), "mapped as %d%s+%" PRIx64 " %s, the answer differs in %s",
				 piece->prot, piece->flags & MAP_SHARED ? "s" : "p", piece->offset, piece->name, field);
			pm_wrong(&areas, areas_find(&areas, ask.addr, 0), &ask, &query, error, what);
		}
	}
	end();
	kt_work("whole answers known", known, 8);
}

void answers_lines(const void *arg)
{
	begin(arg != NULL);
	for (size_t i = 0; i < areas.nr; i++) {
		const struct area *area = &areas.area[i];

		pm_check(&checker, area->start, 0);
		pm_check(&checker, area->start + 1, 0);
		pm_check(&checker, area->start + (area->end - area->start) / 2, 0);
		pm_check(&checker, area->end - 1, 0);
	}
	kt_work("lines", areas.nr, fixture.nr);
	end();
}

/* From one end to the next with the same flags must give the lines that pass, in order, and then ENOENT. */
static uint64_t walk(uint64_t flags)
{
	struct pm_ask ask = { .flags = flags | PM_NEXT, .name = checker.name, .name_size = sizeof(checker.name) };
	struct procmap_query query;
	uint64_t lines = 0;
	int error;

	for (size_t i = 0; i < areas.nr; i++) {
		const struct area *area = &areas.area[i];
		const char *field;

		if (!area_passes(area, flags))
			continue;
		error = pm_ask(checker.fd, &ask, &query);
		field = error ? "its absence" : pm_differs(area, &ask, &query);
		if (field) {
			pm_wrong(&areas, area, &ask, &query, error, "the walk went wrong here");
			return lines;
		}
		ask.addr = query.vma_end;
		lines++;
	}
	error = pm_ask(checker.fd, &ask, &query);
	if (error != ENOENT)
		pm_wrong(&areas, NULL, &ask, &query, error, "the walk does not end");
	checker.asked += lines + 1;
	return lines;
}

void answers_walk(const void *arg)
{
	uint64_t lines = 0;

	begin(arg != NULL);
	for (uint64_t flags = 0; flags <= PM_FLAGS; flags++)
		if (!(flags & PM_NEXT))
			lines += walk(flags);
	kt_work("lines", lines, areas.nr);
	end();
}

void answers_filters(const void *arg)
{
	(void)arg;
	begin(true);
	for (size_t i = 0; i < areas.nr; i++) {
		const struct area *area = &areas.area[i];

		for (uint64_t flags = 0; flags <= PM_FLAGS; flags++) {
			pm_check(&checker, area->start - 1, flags);
			pm_check(&checker, area->start, flags);
			pm_check(&checker, area->end - 1, flags);
		}
	}
	kt_work("found", checker.found, 500);
	kt_work("not found", checker.asked - checker.found, 500);
	end();
}

/* An address at which nothing is: no exact query finds anything, whatever else is asked for. */
static void nothing_at(uint64_t addr)
{
	for (uint64_t flags = 0; flags <= PM_FLAGS; flags += PM_FILE)
		pm_check(&checker, addr, flags);
	pm_check(&checker, addr, PM_R);
	pm_check(&checker, addr, PM_NEXT);
}

void answers_borders(const void *arg)
{
	const struct area *first, *last;
	uint64_t gaps = 0;

	(void)arg;
	begin(true);
	first = &areas.area[0];
	last = &areas.area[areas.nr - 1];
	nothing_at(0);
	nothing_at(1);
	nothing_at(first->start - 1);
	for (size_t i = 0; i + 1 < areas.nr; i++) {
		uint64_t from = areas.area[i].end, to = areas.area[i + 1].start;

		if (from == to)
			continue;
		nothing_at(from);
		nothing_at(from + (to - from) / 2);
		nothing_at(to - 1);
		gaps++;
	}
	for (uint64_t flags = 0; flags <= PM_FLAGS; flags++) {
		pm_check(&checker, last->end, flags);
		pm_check(&checker, last->end + kt_page(), flags);
		/* the end of what a process may have, by any number of address bits, and what is the kernel's */
		for (int bits = 39; bits < 64; bits++)
			if (1ULL << bits > last->end) {
				pm_check(&checker, (1ULL << bits) - 1, flags);
				pm_check(&checker, 1ULL << bits, flags);
			}
		pm_check(&checker, ~0ULL - kt_page(), flags);
		pm_check(&checker, ~0ULL, flags);
	}
	kt_work("gaps", gaps, 10);
	kt_work("not found", checker.asked - checker.found, 200);
	end();
}

/* The same of smaps, if there is one: KernelPageSize of each mapping. */
static uint64_t compare_page_sizes(int smaps)
{
	struct maps_text text = { 0 };
	uint64_t start = 0, compared = 0;
	struct maps_line line;
	const char *why;

	if (maps_read(smaps, 65536, &text))
		kt_inconclusive("reading smaps: %s", strerror(errno));
	for (char *at = text.data, *next; at && *at; at = next) {
		size_t length = strcspn(at, "\n");
		struct pm_ask ask = { 0 };
		struct procmap_query query;
		unsigned long long kib;

		next = at[length] ? at + length + 1 : at + length;
		if (maps_is_header(at, length)) {
			start = maps_parse(at, length, &line, &why) || maps_named(&line, "[vsyscall]") ? 0 : line.start;
			continue;
		}
		if (!start || sscanf(at, "KernelPageSize: %llu kB", &kib) != 1)
			continue;
		ask.addr = start;
		checker.asked++;
		if (pm_ask(checker.fd, &ask, &query) || query.vma_page_size != kib * 1024)
			kt_fail_text(at, length, "vma_page_size at %" PRIx64 " is %" PRIu64 ", smaps has", start,
				     query.vma_page_size);
		compared++;
	}
	maps_free(&text);
	return compared;
}

void answers_page_size(const void *arg)
{
	size_t sizes[] = { 64UL << 10, 1UL << 20, 2UL << 20, 16UL << 20, 32UL << 20, 512UL << 20, 1UL << 30 };
	uint64_t compared, huge = 0;
	char path[64];
	int smaps;

	(void)arg;
	/* address space is all that these take: no page is reserved */
	for (size_t i = 0; i < KT_ARRAY(sizes); i++) {
		int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE |
			    __builtin_ctzl(sizes[i]) << MAP_HUGE_SHIFT;

		huge += mmap(NULL, sizes[i], PROT_READ, flags, -1, 0) != MAP_FAILED;
	}
	begin(true);
	snprintf(path, sizeof(path), "/proc/%d/smaps", target.pid);
	smaps = open(path, O_RDONLY | O_CLOEXEC);
	if (smaps < 0)
		kt_skip("no smaps to compare with");
	for (size_t i = 0; i < areas.nr; i++)
		pm_check(&checker, areas.area[i].start, 0);
	compared = compare_page_sizes(smaps);
	kt_work("compared", compared, fixture.nr);
	/* a kernel without huge pages, or with none of a size of its own, is right too */
	kt_work("of huge pages", huge, 0);
	end();
}

void answers_vdso(const void *arg)
{
	uint64_t at = getauxval(AT_SYSINFO_EHDR);
	struct pm_ask ask = { .addr = at, .flags = PM_R | PM_X, .name = checker.name,
			      .name_size = sizeof(checker.name), .id_size = PM_ID_MAX };
	unsigned char id[PM_ID_MAX];
	struct procmap_query query;
	int error;

	(void)arg;
	if (!at)
		kt_skip("this kernel gives processes no vdso");
	begin(false);
	ask.id = id;
	pm_check(&checker, at, 0);
	error = pm_ask(checker.fd, &ask, &query);
	checker.asked++;
	if (error || query.vma_start > at || query.vma_end <= at || strcmp(checker.name, "[vdso]") || query.inode ||
	    query.dev_major || query.dev_minor || query.vma_offset || (query.vma_flags & PM_PERMS) != (PM_R | PM_X))
		pm_wrong(&areas, areas_find(&areas, at, 0), &ask, &query, error, "this is not the vdso");
	else if (query.build_id_size)
		/* it has one, but there is no file that it could be read from */
		kt_fail("build_id_size of the vdso is %u; it has no backing file", query.build_id_size);
	for (uint64_t flags = 0; flags <= PM_FLAGS; flags++) {
		pm_check(&checker, at, flags);
		pm_check(&checker, areas_find(&areas, at, 0)->end - 1, flags);
	}
	end();
}

void answers_gate(const void *arg)
{
	const struct area *last;

	(void)arg;
	begin(true);
	last = &areas.area[areas.nr - 1];
	if (areas.has_gate) {
		kt_note("the gate area: %.*s", (int)areas.gate.length, areas.gate.text);
		if (areas.gate.start != VSYSCALL || last->end > areas.gate.start)
			kt_fail("the gate area begins at %" PRIx64, areas.gate.start);
	}
#ifndef __x86_64__
	if (!areas.has_gate)
		kt_skip("this architecture has no gate area");
#endif
	for (uint64_t flags = 0; flags <= PM_FLAGS; flags++) {
		pm_check(&checker, VSYSCALL - 1, flags);
		pm_check(&checker, VSYSCALL, flags);
		pm_check(&checker, VSYSCALL + kt_page() - 1, flags);
		pm_check(&checker, VSYSCALL + kt_page(), flags);
	}
	kt_work("lines of it", areas.has_gate, 0);
	end();
}

/* Unmap everything, its own code too: it stops at the next instruction, for its tracer to look at. */
static _Noreturn void be_empty(void)
{
	static const int bits[] = { 52, 48, 47, 46, 42, 39 };

	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	for (size_t i = 0; i < KT_ARRAY(bits); i++) {
		munmap(NULL, 1UL << bits[i]);
		munmap(NULL, (1UL << bits[i]) - kt_page());
	}
	_exit(0);
}

void answers_empty(const void *arg)
{
	int status;
	pid_t pid;

	(void)arg;
	pid = kt_fork();
	if (!pid)
		be_empty();
	if (waitpid(pid, &status, 0) != pid)
		kt_inconclusive("waitpid: %s", strerror(errno));
	if (!WIFSTOPPED(status))
		kt_skip("a process cannot unmap all that it has");
	checker.fd = pm_open(pid);
	checker.areas = &areas;
	areas_read(&areas, checker.fd);
	if (areas.nr)
		kt_skip("a process cannot unmap all that it has");
	for (uint64_t flags = 0; flags <= PM_FLAGS; flags++) {
		pm_check(&checker, 0, flags);
		pm_check(&checker, (uintptr_t)&areas, flags);
		pm_check(&checker, VSYSCALL, flags);
		pm_check(&checker, ~0ULL, flags);
	}
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) == pid && !WIFSIGNALED(status) && !WIFEXITED(status))
		;
	kt_work("queries", checker.asked, 100);
}
